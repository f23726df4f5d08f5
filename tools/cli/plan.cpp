// foveal plan: what a conversation would take, from the headers alone.
#include "tools/cli/commands.h"
#include "tools/cli/setup.h"

namespace foveal::cli {

int plan(const Options& o) {
  PlanQuery q = o.plan;
  q.model = o.model;
  q.mmproj = o.mmproj;
  q.image_min_tokens = o.image_min_tokens;
  q.image_max_tokens = o.image_max_tokens;
  q.kv = o.kv;
  const MemoryPlan p = plan_memory(q);
  std::string text = "rows per picture:";
  for (const int64_t rows : p.rows_per_image) text += cat(" ", rows);
  text += p.rows_per_image.empty() ? " none\n" : "\n";
  text += "\n| turn | rows | KV held | without eviction | KV peak in prefill |\n| ---: | ---: | ---: | ---: | ---: |\n";
  for (size_t i = 0; i < p.turns.size(); ++i) {
    const PlanTurn& t = p.turns[i];
    text += cat("| ", i + 1, " | ", t.rows, " | ", bytes_text(t.kv_bytes), " | ", bytes_text(t.kv_bytes_full), " | ",
                bytes_text(t.prefill_peak), " |\n");
  }
  text += cat("\nweights         ", bytes_text(p.text_weights), " text, ", bytes_text(p.vision_weights), " encoder\n");
  text +=
      cat("encoder scratch ", bytes_text(p.encoder_scratch), "; embedding cache ", bytes_text(p.embedding_cache), "\n");
  text += cat("prefill scratch ", bytes_text(p.prefill_scratch), "; fixed a session ", bytes_text(p.fixed), "\n");
  text += cat("total           ", bytes_text(p.total), " at the peak, ", bytes_text(p.memory),
              " to fit in: ", p.fits ? "fits" : cat("does not fit; what would: ", p.advice), "\n");
  write_out(text);
  return 0;
}

}  // namespace foveal::cli
