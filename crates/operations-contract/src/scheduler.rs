/// The samplers that `scheduler` may name.
pub const SCHEDULERS: [&str; 16] = [
    "ddim",
    "ddpm",
    "pndm",
    "lms",
    "euler",
    "euler_a",
    "heun",
    "dpm2",
    "dpm2_a",
    "dpmpp_2m",
    "dpmpp_2m_sde",
    "dpmpp_2s",
    "unipc",
    "deis",
    "lcm",
    "tcd",
];

/// The spacings of noise levels that `schedule` may name.
pub const SCHEDULES: [&str; 2] = ["karras", "exponential"];

/// Whether diffusers' class behind the scheduler has `use_karras_sigmas` and `use_exponential_sigmas`.
pub fn scheduler_has_schedules(scheduler: &str) -> bool {
    matches!(
        scheduler,
        "lms" | "euler" | "heun" | "dpm2" | "dpm2_a" | "dpmpp_2m" | "dpmpp_2m_sde" | "dpmpp_2s" | "unipc" | "deis"
    )
}

/// The names as a schema's `enum` for an optional field.
pub(crate) fn names_or_null(names: &[&str]) -> Vec<Option<String>> {
    names.iter().map(|name| Some((*name).to_owned())).chain([None]).collect()
}
