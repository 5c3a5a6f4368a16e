#include <algorithm>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "bench/bench.h"

namespace attn::bench {

namespace {

std::string shape_text(const Row& row) {
  std::string text = "(";
  for (std::size_t i = 0; i < row.shape.size(); ++i) {
    if (i > 0) text += ",";
    text += std::to_string(row.shape[i]);
  }
  text += ")";
  return text;
}

}  // namespace

void judge(std::vector<Row>& rows, double best_ceiling) {
  for (const Row& row : rows) best_ceiling = std::max(best_ceiling, row.ceiling_gflops);
  for (Row& row : rows) {
    row.ceiling_gflops = best_ceiling;
    row.share = row.gflops / best_ceiling;
  }
}

void print_header(const std::string& title) {
  std::printf("\n%s\n%-26s %-20s %-9s %9s %9s %9s %7s %7s %7s %8s\n", title.c_str(),
              "shape (B,Hq,Hkv,Lq,Lk,D)", "mask + score", "", "ms", "GFLOP/s", "ceiling", "share",
              "median", "spread", "peak MB");
}

void print_row(const Row& row) {
  const std::string what = row.mask + (row.score == "none" ? "" : " + " + row.score);
  std::printf("%-26s %-20s %-9s %9.3f %9.1f %9.1f %6.1f%% %6.1f%% %6.1f%% %8.1f\n",
              shape_text(row).c_str(), what.c_str(), row.peer.empty() ? "attn" : row.peer.c_str(),
              row.ms, row.gflops, row.ceiling_gflops, 100 * row.share, 100 * row.share_median,
              100 * row.spread, row.peak_mb);
  std::fflush(stdout);
}

void write_json(const std::vector<Row>& rows, const std::string& path) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const Row& row : rows) {
    nlohmann::ordered_json entry;
    entry["shape"] = row.shape;
    entry["mask"] = row.mask;
    entry["score"] = row.score;
    entry["pass"] = "forward";
    entry["dtype"] = "float32";
    entry["isa"] = name(row.isa);
    entry["threads"] = row.threads;
    entry["ms"] = row.ms;
    entry["ms_median"] = row.ms_median;
    entry["gflops"] = row.gflops;
    entry["ceiling_gflops"] = row.ceiling_gflops;
    entry["share"] = row.share;
    entry["share_median"] = row.share_median;
    entry["spread"] = row.spread;
    entry["samples"] = row.samples;
    entry["peak_mb"] = row.peak_mb;
    if (row.peer.empty())
      entry["peer"] = nullptr;
    else
      entry["peer"] = row.peer;
    list.push_back(std::move(entry));
  }
  std::ofstream file(path);
  file << list.dump(1) << "\n";
  file.close();
  if (!file) throw std::runtime_error("bench: cannot write " + path);
}

std::vector<Row> read_json(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw std::runtime_error("bench: cannot read " + path);
  std::vector<Row> rows;
  for (const nlohmann::json& entry : nlohmann::json::parse(file)) {
    Row row;
    entry.at("shape").get_to(row.shape);
    entry.at("mask").get_to(row.mask);
    entry.at("score").get_to(row.score);
    row.isa = isa_from_name(entry.at("isa"));
    entry.at("threads").get_to(row.threads);
    entry.at("ms").get_to(row.ms);
    entry.at("ms_median").get_to(row.ms_median);
    entry.at("gflops").get_to(row.gflops);
    entry.at("ceiling_gflops").get_to(row.ceiling_gflops);
    entry.at("share").get_to(row.share);
    entry.at("share_median").get_to(row.share_median);
    entry.at("spread").get_to(row.spread);
    entry.at("samples").get_to(row.samples);
    entry.at("peak_mb").get_to(row.peak_mb);
    if (!entry.at("peer").is_null()) entry.at("peer").get_to(row.peer);
    rows.push_back(row);
  }
  return rows;
}

}  // namespace attn::bench
