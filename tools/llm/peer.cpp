// What llama-bench and llama-batched-bench measure, on llama.cpp's own API alone: tokens a second of prompts and of writing, for one
// text and for several side by side. The crate llama-cpp-sys-2 brings llama.cpp's library and not those two programs.
//
//     peer MODEL THREADS PROMPT WRITTEN PARALLEL REPEAT      prints one JSON object
#include "ggml-cpu.h"
#include "llama.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

static double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

static void decode(llama_context * context, llama_batch & batch) {
    if (llama_decode(context, batch) != 0) {
        std::fprintf(stderr, "llama_decode failed\n");
        std::exit(1);
    }
}

static void add(llama_batch & batch, llama_token token, int position, int sequence, bool output) {
    const int i = batch.n_tokens++;
    batch.token[i] = token;
    batch.pos[i] = position;
    batch.n_seq_id[i] = 1;
    batch.seq_id[i][0] = sequence;
    batch.logits[i] = output;
}

int main(int argc, char ** argv) {
    if (argc != 7) {
        std::fprintf(stderr, "peer MODEL THREADS PROMPT WRITTEN PARALLEL REPEAT\n");
        return 2;
    }
    const int threads = std::atoi(argv[2]), prompt = std::atoi(argv[3]), written = std::atoi(argv[4]);
    const int parallel = std::atoi(argv[5]), repeat = std::atoi(argv[6]);
    llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
    llama_backend_init();
    llama_model * model = llama_model_load_from_file(argv[1], llama_model_default_params());
    if (!model) {
        std::fprintf(stderr, "%s cannot be loaded\n", argv[1]);
        return 1;
    }
    llama_context_params params = llama_context_default_params();
    params.n_ctx = parallel * (prompt + written + 256);
    params.n_seq_max = parallel;
    params.n_batch = 2048;
    params.n_ubatch = 512;
    params.n_threads = params.n_threads_batch = threads;
    params.no_perf = true;
    llama_context * context = llama_init_from_model(model, params);
    ggml_threadpool_params pool_params = ggml_threadpool_params_default(threads);
    ggml_threadpool * pool = ggml_threadpool_new(&pool_params);
    llama_attach_threadpool(context, pool, nullptr);

    const int words = llama_vocab_n_tokens(llama_model_get_vocab(model));
    std::mt19937 random(1);
    llama_batch batch = llama_batch_init(std::max(2048, parallel), 0, 1);
    std::vector<double> read_rates, write_rates;
    for (int round = 0; round <= repeat; round++) {
        llama_memory_clear(llama_get_memory(context), true);
        const double begun = now();
        std::vector<std::pair<int, int>> all;
        for (int sequence = 0; sequence < parallel; sequence++) {
            for (int i = 0; i < prompt; i++) all.push_back({sequence, i});
        }
        for (size_t from = 0; from < all.size(); from += params.n_batch) {
            batch.n_tokens = 0;
            for (size_t i = from; i < std::min(all.size(), from + params.n_batch); i++) {
                add(batch, random() % words, all[i].second, all[i].first, all[i].second == prompt - 1);
            }
            decode(context, batch);
        }
        llama_synchronize(context);
        const double read = now();
        for (int i = 0; i < written; i++) {
            batch.n_tokens = 0;
            for (int sequence = 0; sequence < parallel; sequence++) add(batch, random() % words, prompt + i, sequence, true);
            decode(context, batch);
            llama_synchronize(context);
        }
        const double end = now();
        // The first round warms up.
        if (round > 0) {
            read_rates.push_back(parallel * prompt / (read - begun));
            write_rates.push_back(parallel * written / (end - read));
        }
    }
    std::sort(read_rates.begin(), read_rates.end());
    std::sort(write_rates.begin(), write_rates.end());
    std::printf("{\"read\": %.3f, \"written\": %.3f}\n", read_rates[repeat / 2], write_rates[repeat / 2]);
}
