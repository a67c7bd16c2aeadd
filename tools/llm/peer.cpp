// What llama-bench and llama-batched-bench measure, as they do it, on llama.cpp's own API alone: one decode after the other of random
// tokens, nothing chosen and nothing told. The crate llama-cpp-sys-2 brings llama.cpp's library and not those two programs.
//
//     peer MODEL THREADS CONTEXT PARALLEL
//
// Each line of standard input, "PROMPT WRITTEN", is one round; the answer is a line "SECONDS-OF-PROMPTS SECONDS-OF-WRITING".
#include "ggml-cpu.h"
#include "llama.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <utility>
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
    if (argc != 5) {
        std::fprintf(stderr, "peer MODEL THREADS CONTEXT PARALLEL\n");
        return 2;
    }
    const int threads = std::atoi(argv[2]), length = std::atoi(argv[3]), parallel = std::atoi(argv[4]);
    llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
    llama_backend_init();
    llama_model * model = llama_model_load_from_file(argv[1], llama_model_default_params());
    if (!model) {
        std::fprintf(stderr, "%s cannot be loaded\n", argv[1]);
        return 1;
    }
    llama_context_params params = llama_context_default_params();
    params.n_ctx = parallel * length;
    params.n_seq_max = parallel;
    params.n_batch = 2048;
    params.n_ubatch = 512;
    params.n_threads = params.n_threads_batch = threads;
    params.no_perf = true;
    llama_context * context = llama_init_from_model(model, params);
    if (!context) {
        std::fprintf(stderr, "no context of %d times %d tokens\n", parallel, length);
        return 1;
    }
    ggml_threadpool_params pool_params = ggml_threadpool_params_default(threads);
    llama_attach_threadpool(context, ggml_threadpool_new(&pool_params), nullptr);

    const int words = llama_vocab_n_tokens(llama_model_get_vocab(model));
    std::mt19937 random(1);
    llama_batch batch = llama_batch_init(params.n_batch, 0, 1);
    for (int prompt, written; std::scanf("%d %d", &prompt, &written) == 2;) {
        llama_memory_clear(llama_get_memory(context), true);
        std::vector<std::pair<int, int>> all;
        for (int sequence = 0; sequence < parallel; sequence++) {
            for (int i = 0; i < prompt; i++) all.push_back({sequence, i});
        }
        const double begun = now();
        for (size_t from = 0; from < all.size(); from += params.n_batch) {
            batch.n_tokens = 0;
            for (size_t i = from; i < std::min<size_t>(all.size(), from + params.n_batch); i++) {
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
        std::printf("%.6f %.6f\n", read - begun, now() - read);
        std::fflush(stdout);
    }
}
