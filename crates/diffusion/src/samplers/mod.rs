//! Schedules and samplers, equal to diffusers' schedulers.
