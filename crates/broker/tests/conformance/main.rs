//! What every broker has to do, written against its traits, and run on each way to one.

#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod bed;
mod disk;
mod hives;
mod http;
mod jobs;
mod keeping;
mod kill;
mod model;

/// Runs each case in a test of its own, for each way to the broker.
macro_rules! suite {
    ($way:ident: $($module:ident :: $case:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                crate::$module::$case(crate::bed::Way::$way).await;
            }
        )*
    };
}

macro_rules! suites {
    ($($name:ident = $way:ident;)*) => {
        $(
            mod $name {
                suite! { $way:
                    jobs::a_job_is_there_after_a_restart,
                    jobs::the_same_request_is_the_same_job,
                    jobs::more_than_the_limit_is_refused,
                    jobs::what_is_no_job_is_refused,
                    jobs::everybody_who_listens_hears_everything,
                    jobs::who_waits_hears_that_he_moves_up,
                    jobs::a_slow_listener_misses_nothing,
                    jobs::a_thousand_listen_to_one_stream,
                    jobs::previews_are_live_only,
                    jobs::what_was_appended_is_not_appended_again,
                    jobs::a_job_ends_once,
                    jobs::a_picture_comes_back,
                    jobs::images_of_a_request_are_blobs,
                    jobs::a_job_that_waits_is_cancelled_at_once,
                    jobs::the_holder_is_told_that_it_is_cancelled,
                    jobs::what_nobody_will_serve_is_refused,
                    jobs::jobs_are_listed_newest_first,
                    hives::three_dead_workers_end_a_job,
                    hives::what_stops_does_not_count,
                    hives::only_what_was_begun_is_counted,
                    hives::a_lease_that_ran_out_is_over,
                    hives::a_hive_that_was_started_anew_holds_nothing,
                    hives::only_who_is_enlisted_may_claim,
                    hives::who_waits_gets_the_next_job,
                    hives::who_has_gone_takes_nothing_along,
                    hives::a_repeated_claim_is_the_same_claim,
                    hives::a_warm_worker_comes_first,
                    hives::a_held_job_stays_held_over_a_restart,
                    hives::a_hive_that_leaves_is_forgotten,
                    keeping::old_jobs_expire,
                    keeping::too_much_is_dropped_oldest_first,
                    keeping::a_key_is_known_until_it_is_revoked,
                    model::whatever_happens_each_job_ends_once,
                }
            }
        )*
    };
}

suites! {
    direct = Direct;
    over_http = Http;
    over_a_torn_network = Torn;
}
