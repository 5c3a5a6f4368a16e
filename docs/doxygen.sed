# Makes Doxygen comments of plain ones: the head of the file, lines of their own, and line ends.
1s,^// ,/// \\file\n/// ,
s,^([ ]*)//( |$),\1/// ,
s,([;\,{}][ ]+)//( |$),\1///< ,
