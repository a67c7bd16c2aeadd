use crate::bed::{Bed, LEASE, Way, any_model, job, record, started, step};
use broker::{AttemptId, BrokerError, ClaimRequest, Ending, GiveBack, NewJob, Offer, WorkKind};
use operations_contract::{ErrorCode, JobEvent, JobState, Priority};
use std::sync::Arc;
use std::time::Duration;

/// Longer than any back-off.
const LATER: Duration = Duration::from_secs(60);

fn died() -> GiveBack {
    GiveBack::WorkerDied { reason: "the worker w died of signal 9".to_owned(), last_words: "out of paint".to_owned() }
}

pub(crate) async fn three_dead_workers_end_a_job(way: Way) {
    let bed = Bed::new(way).await;
    let id = bed.submit().await;
    for number in 1..=3 {
        let claim = bed.claim().await;
        assert_eq!((claim.attempt.number, claim.crashes), (number, number - 1));
        bed.hive.append(&claim.attempt, 1, vec![started()]).await.unwrap();
        bed.hive.give_back(&claim.attempt, died()).await.unwrap();
        bed.hive.give_back(&claim.attempt, died()).await.unwrap();
        if number < 3 {
            let record = bed.queen.job(&id).await.unwrap();
            assert_eq!((record.job.state, record.crashes), (JobState::Queued, number));
            assert!(record.not_before_ms.is_some());
            bed.leap(LATER).await;
        }
    }
    let record = bed.queen.job(&id).await.unwrap();
    let error = record.job.error.unwrap();
    assert_eq!((record.job.state, error.code, record.crashes), (JobState::Error, ErrorCode::WorkerCrashed, 3));
    assert!(error.message.contains("signal 9") && error.message.ends_with("out of paint"), "{}", error.message);
    let again = ["started", "narration", "queued"];
    let expected = [&["queued"], &again[..], &again, &["started", "error"]].concat();
    assert_eq!(bed.names(&id).await, expected);
}

pub(crate) async fn what_stops_does_not_count(way: Way) {
    let bed = Bed::new(way).await;
    let id = bed.submit().await;
    let refused = GiveBack::Refused { reason: "it is full".to_owned() };
    for why in [GiveBack::HiveStopping, GiveBack::QueenStopping, refused, GiveBack::Unused, GiveBack::HiveStopping] {
        let claim = bed.claim().await;
        bed.hive.give_back(&claim.attempt, why).await.unwrap();
        bed.leap(LATER).await;
    }
    let claim = bed.claim().await;
    assert_eq!((claim.attempt.number, claim.crashes), (6, 0));
    // A job that somebody cancelled is not tried again.
    bed.queen.cancel(&id).await.unwrap();
    bed.hive.give_back(&claim.attempt, GiveBack::HiveStopping).await.unwrap();
    assert_eq!(bed.queen.job(&id).await.unwrap().job.state, JobState::Cancelled);
    assert_eq!(*bed.names(&id).await.last().unwrap(), "cancelled");
}

/// Claims are numbered, attempts are counted: one that a worker began, or died over.
pub(crate) async fn only_what_was_begun_is_counted(way: Way) {
    let bed = Bed::new(way).await;
    let id = bed.submit().await;
    let tries = async || bed.queen.job(&id).await.unwrap().job.attempt;
    for why in [GiveBack::Unused, GiveBack::Refused { reason: "full".to_owned() }, GiveBack::HiveStopping] {
        let claim = bed.claim().await;
        bed.hive.append(&claim.attempt, 1, vec![step(1)]).await.unwrap();
        bed.hive.give_back(&claim.attempt, why).await.unwrap();
        assert_eq!(tries().await, 0, "a job that only heard of a download was not begun");
        bed.leap(LATER).await;
    }
    let first = bed.claim().await.attempt;
    bed.hive.append(&first, 1, vec![started(), started()]).await.unwrap();
    assert_eq!((first.number, tries().await), (4, 1));
    bed.hive.give_back(&first, died()).await.unwrap();
    bed.leap(LATER).await;
    let second = bed.claim().await.attempt;
    bed.hive.give_back(&second, died()).await.unwrap();
    assert_eq!(tries().await, 2, "its worker died before it began");
    bed.leap(LATER).await;
    let third = bed.claim().await.attempt;
    bed.hive.append(&third, 1, vec![started()]).await.unwrap();
    bed.hive.finish(&third, Ending::Cancelled).await.unwrap();
    let numbers = bed.log(&id).await.into_iter().filter_map(|(_, event)| match event {
        JobEvent::Started { attempt, .. } => Some(attempt),
        _ => None,
    });
    assert_eq!(numbers.collect::<Vec<_>>(), [1, 1, 3]);
}

pub(crate) async fn a_lease_that_ran_out_is_over(way: Way) {
    let bed = Bed::new(way).await;
    bed.submit().await;
    let first = bed.claim().await.attempt;
    bed.leap(LEASE * 2 / 3).await;
    bed.hive.renew(&first).await.unwrap();
    bed.leap(LEASE * 2 / 3).await;
    bed.hive.append(&first, 1, vec![started()]).await.unwrap();
    bed.leap(LEASE * 2 / 3).await;
    assert!(bed.hive.renew(&first).await.is_ok());
    bed.leap(LEASE + LATER).await;
    let stale = |error| matches!(error, BrokerError::Stale { .. });
    assert!(stale(bed.hive.renew(&first).await.unwrap_err()));
    let second = bed.claim().await;
    assert_eq!((second.attempt.number, second.crashes), (2, 0));
    assert!(stale(bed.hive.append(&first, 2, vec![step(1)]).await.unwrap_err()));
    assert!(stale(bed.hive.finish(&first, Ending::Cancelled).await.unwrap_err()));
    assert!(stale(bed.hive.give_back(&first, died()).await.unwrap_err()));
    assert!(stale(bed.hive.cancelled(&first, LATER).await.unwrap_err()));
    bed.hive.append(&second.attempt, 1, vec![started()]).await.unwrap();
    bed.hive.finish(&second.attempt, bed.picture(b"picture").await).await.unwrap();
    let names = bed.names(&first.job_id).await;
    assert_eq!(names, ["queued", "started", "narration", "queued", "started", "complete"]);
}

pub(crate) async fn a_hive_that_was_started_anew_holds_nothing(way: Way) {
    let bed = Bed::new(way).await;
    bed.submit().await;
    let old = bed.claim().await.attempt;
    bed.enlist("h", 1).await;
    assert!(bed.hive.renew(&old).await.is_ok(), "it only renewed its place in the registry");
    bed.enlist("h", 2).await;
    assert!(matches!(bed.hive.renew(&old).await, Err(BrokerError::Stale { .. })));
    let request = ClaimRequest::new("h", 2, vec![any_model()], LATER);
    let new = bed.hive.claim(request).await.unwrap().unwrap();
    assert_eq!((new.attempt.number, new.crashes), (2, 0));
    let error = bed.hive.enlist(record("h", 1), LATER).await.unwrap_err();
    assert_eq!(error, BrokerError::Superseded { hive_id: "h".to_owned() });
    assert!(bed.hive.renew(&new.attempt).await.is_ok());
}

pub(crate) async fn only_who_is_enlisted_may_claim(way: Way) {
    let bed = Bed::new(way).await;
    bed.submit().await;
    let claim = |hive_id: &str, incarnation| {
        bed.hive.claim(ClaimRequest::new(hive_id, incarnation, vec![any_model()], Duration::ZERO))
    };
    for (hive_id, incarnation) in [("x", 1), ("h", 0), ("h", 2)] {
        let error = claim(hive_id, incarnation).await.unwrap_err();
        assert_eq!(error, BrokerError::NotEnlisted { hive_id: hive_id.to_owned(), incarnation });
    }
    bed.hive.enlist(record("x", 1), LATER).await.unwrap();
    assert_eq!(bed.queen.hives().await.unwrap(), [record("h", 1), record("x", 1)]);
    let error = bed.hive.enlist(record("x", u64::MAX), LATER).await.unwrap_err();
    assert!(matches!(error, BrokerError::Invalid { .. }), "{error}");
    bed.leap(LATER * 2).await;
    assert!(claim("x", 1).await.is_err());
    assert_eq!(bed.queen.hives().await.unwrap(), [record("h", 1)]);
    assert!(claim("h", 1).await.unwrap().is_some());
}

pub(crate) async fn who_waits_gets_the_next_job(way: Way) {
    let bed = Bed::new(way).await;
    let waiting = {
        let hive = Arc::clone(&bed.hive);
        tokio::spawn(async move { hive.claim(ClaimRequest::new("h", 1, vec![any_model()], LATER)).await })
    };
    tokio::time::sleep(Duration::from_millis(20)).await;
    let id = bed.submit().await;
    assert_eq!(waiting.await.unwrap().unwrap().unwrap().attempt.job_id, id);
    let request = ClaimRequest::new("h", 1, vec![any_model()], Duration::from_millis(20));
    assert_eq!(bed.hive.claim(request).await.unwrap(), None);
    // Nor does one that does not fit.
    bed.submit().await;
    let infer = Offer::LoadAny { kind: WorkKind::Infer, except: Vec::new() };
    let request = ClaimRequest::new("h", 1, vec![infer], Duration::from_millis(20));
    assert_eq!(bed.hive.claim(request).await.unwrap(), None);
}

pub(crate) async fn who_has_gone_takes_nothing_along(way: Way) {
    let bed = Bed::new(way).await;
    let request = ClaimRequest::new("h", 1, vec![any_model()], LATER);
    let gone = tokio::time::timeout(Duration::from_millis(50), bed.hive.claim(request)).await;
    assert!(gone.is_err(), "there is nothing to claim yet");
    for _ in 0..20 {
        bed.submit().await;
    }
    // Some are dropped while they are being granted.
    let mut claims = tokio::task::JoinSet::new();
    for i in 0..20 {
        let hive = Arc::clone(&bed.hive);
        let request = ClaimRequest::new("h", 1, vec![any_model()], LATER);
        claims.spawn(async move {
            let patience = Duration::from_micros(i * 300);
            tokio::time::timeout(patience, hive.claim(request)).await.ok().map(|claim| claim.unwrap().unwrap())
        });
    }
    let mut held = 0;
    while let Some(claim) = claims.join_next().await {
        held += usize::from(claim.unwrap().is_some());
    }
    if way != Way::Direct {
        // An answer that was on the wire when nobody waited any more: its lease brings it back.
        bed.leap(LEASE * 2).await;
        held = 0;
    }
    for _ in held..20 {
        bed.claim().await;
    }
    assert!(bed.try_claim().await.is_none());
}

pub(crate) async fn a_repeated_claim_is_the_same_claim(way: Way) {
    let bed = Bed::new(way).await;
    bed.submit().await;
    bed.submit().await;
    let request = ClaimRequest::new("h", 1, vec![any_model()], LATER);
    let first = bed.hive.claim(request.clone()).await.unwrap();
    assert!(first.is_some());
    assert_eq!(bed.hive.claim(request.clone()).await.unwrap(), first);
    let bed = bed.restart().await;
    assert_eq!(bed.hive.claim(request).await.unwrap(), first);
    assert_ne!(bed.try_claim().await, first);
    assert!(bed.try_claim().await.is_none());
}

pub(crate) async fn a_warm_worker_comes_first(way: Way) {
    let bed = Bed::new(way).await;
    bed.enlist("cold", 1).await;
    let wait = |hive_id: &str, offers: Vec<Offer>| {
        let (hive, request) = (Arc::clone(&bed.hive), ClaimRequest::new(hive_id, 1, offers, LATER));
        tokio::spawn(async move { hive.claim(request).await.unwrap().unwrap() })
    };
    let worker = Offer::Worker { worker_id: "w".to_owned(), kind: WorkKind::Image, model: "tiny-scenes".to_owned() };
    let cold = wait("cold", vec![any_model()]);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let warm = wait("h", vec![worker]);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let first = bed.submit().await;
    let claim = warm.await.unwrap();
    assert_eq!((claim.attempt.job_id, claim.worker_id.as_deref()), (first, Some("w")));
    let second = bed.queen.submit(NewJob { priority: Priority::Low, ..job() }).await.unwrap();
    let claim = cold.await.unwrap();
    assert_eq!((claim.attempt.job_id, claim.worker_id), (second.job_id, None));
}

pub(crate) async fn a_held_job_stays_held_over_a_restart(way: Way) {
    let bed = Bed::new(way).await;
    bed.submit().await;
    let attempt = bed.claim().await.attempt;
    bed.hive.append(&attempt, 1, vec![started(), step(1)]).await.unwrap();
    bed.leap(LEASE * 2 / 3).await;
    let bed = bed.restart().await;
    bed.leap(LEASE * 2 / 3).await;
    assert!(bed.try_claim().await.is_none(), "its holder gets a lease to say that he still has it");
    let appended = bed.hive.append(&attempt, 2, vec![step(1), step(2)]).await.unwrap();
    assert_eq!(appended.last_event_id, 4);
    bed.leap(LEASE * 2).await;
    assert_eq!(bed.claim().await.attempt, AttemptId { number: 2, ..attempt });
}

pub(crate) async fn a_hive_that_leaves_is_forgotten(way: Way) {
    let bed = Bed::new(way).await;
    bed.submit().await;
    let attempt = bed.claim().await.attempt;
    bed.hive.retire("h", 0).await.unwrap();
    assert!(bed.hive.renew(&attempt).await.is_ok(), "an older process cannot retire this one");
    bed.hive.retire("h", 1).await.unwrap();
    bed.hive.retire("h", 1).await.unwrap();
    assert!(bed.queen.hives().await.unwrap().is_empty());
    assert!(matches!(bed.hive.renew(&attempt).await, Err(BrokerError::Stale { .. })));
    let record = bed.queen.job(&attempt.job_id).await.unwrap();
    assert_eq!((record.job.state, record.crashes), (JobState::Queued, 0));
}
