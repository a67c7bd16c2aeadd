// Times stable-diffusion.cpp, by its library, on one checkpoint: seconds for each denoising step, and for the decoding.
//
// sdcpp CHECKPOINT [STEPS=3] [SIZE=512] [THREADS=2]; built by sdcpp.sh. With guidance it calls its U-Net twice a step, batch 1.
#include <chrono>
#include <cstdio>
#include <cstdlib>

#include "stable-diffusion.h"

static double now() {
    using namespace std::chrono;
    return duration<double>(steady_clock::now().time_since_epoch()).count();
}

static double last;
static int wanted;  // reading the weights tells of its progress too

int main(int argc, char** argv) {
    if (argc < 2) return std::fprintf(stderr, "sdcpp CHECKPOINT [STEPS] [SIZE] [THREADS]\n"), 2;
    const int steps = wanted = argc > 2 ? std::atoi(argv[2]) : 3, size = argc > 3 ? std::atoi(argv[3]) : 512;
    sd_ctx_params_t context;
    sd_ctx_params_init(&context);
    context.model_path = argv[1];
    context.n_threads = argc > 4 ? std::atoi(argv[4]) : 2;
    const double start = now();
    sd_ctx_t* model = new_sd_ctx(&context);
    if (!model) return std::fprintf(stderr, "cannot read %s\n", argv[1]), 1;
    std::printf("load %.2f s; %s\n", now() - start, sd_get_system_info());
    sd_set_log_callback([](sd_log_level_t, const char* text, void*) { std::fputs(text, stderr); }, nullptr);
    sd_set_progress_callback(
        [](int step, int steps, float, void*) {
            if (steps != wanted) return;
            if (step > 0) std::printf("step %d of %d: %.2f s\n", step, steps, now() - last);
            std::fflush(stdout);
            last = now();
        },
        nullptr);

    sd_img_gen_params_t picture;
    sd_img_gen_params_init(&picture);
    picture.prompt = "a castle by the sea";
    picture.negative_prompt = "";
    picture.width = picture.height = size;
    picture.sample_params.sample_steps = steps;
    picture.sample_params.guidance.txt_cfg = 7.5f;
    picture.seed = 1;
    last = now();
    const double begin = now();
    sd_image_t* images = generate_image(model, &picture);
    if (!images) return std::fprintf(stderr, "no picture\n"), 1;
    std::printf("decoding %.2f s, all %.2f s\n", now() - last, now() - begin);
    free_sd_images(images, 1);
    free_sd_ctx(model);
}
