use crate::bed::{Bed, Way, job, operation, owned, started, step, stored};
use broker::{
    AttemptId, BrokerError, Ending, Idempotency, JobFilter, NewJob, Outcome, PictureRef, StoredOperation, Want,
    WorkKind,
};
use futures_util::StreamExt as _;
use operations_contract::{
    ApiError, Completion, ErrorCode, ImageFormat, ImageTransformRequest, JobEvent, JobState, Operation, Priority,
};
use std::io::Cursor;
use std::time::Duration;

pub(crate) async fn a_job_is_there_after_a_restart(way: Way) {
    let bed = Bed::new(way).await;
    let high = NewJob { priority: Priority::High, ..owned("a") };
    let first = bed.submit().await;
    let second = bed.queen.submit(high.clone()).await.unwrap();
    assert!(second.new);
    let bed = bed.restart().await;
    let record = bed.queen.job(&first).await.unwrap();
    assert_eq!((record.job.state, record.job.position, record.last_event_id), (JobState::Queued, Some(2), 1));
    let record = bed.queen.job(&second.job_id).await.unwrap();
    assert_eq!((record.job.position, record.owner, record.priority), (Some(1), high.owner, Priority::High));
    assert_eq!(bed.queen.operation(&first).await.unwrap().operation(), &operation("a red circle"));
    assert_eq!(bed.claim().await.attempt, AttemptId { job_id: second.job_id, number: 1 });
    assert_eq!(bed.claim().await.attempt.job_id, first);
    let counts = bed.queen.counts().await.unwrap();
    assert_eq!((counts.queued, counts.running, counts.kept), (0, 2, 0));
}

pub(crate) async fn the_same_request_is_the_same_job(way: Way) {
    let bed = Bed::new(way).await;
    let named =
        |owner: &str, key: &str, body: &[u8]| NewJob { idempotency: Some(Idempotency::new(key, body)), ..owned(owner) };
    let first = bed.queen.submit(named("a", "k", b"1")).await.unwrap();
    let again = bed.queen.submit(named("a", "k", b"1")).await.unwrap();
    assert_eq!((&again.job_id, again.new), (&first.job_id, false));
    let other = bed.queen.submit(named("a", "k", b"2")).await.unwrap_err();
    assert_eq!(other, BrokerError::Conflict { key: "k".to_owned(), job_id: first.job_id.clone() });
    assert_eq!(ApiError::from(other).status(), 409);
    assert!(bed.queen.submit(named("b", "k", b"2")).await.unwrap().new);
    assert!(bed.queen.submit(named("a", "l", b"1")).await.unwrap().new);
    let bed = bed.restart().await;
    assert_eq!(bed.queen.submit(named("a", "k", b"1")).await.unwrap().job_id, first.job_id);

    // A submit that was repeated because nobody heard the answer.
    let lost = job();
    assert!(bed.queen.submit(lost.clone()).await.unwrap().new);
    assert!(!bed.queen.submit(lost).await.unwrap().new);
    assert_eq!(bed.queen.counts().await.unwrap().queued, 4);
}

pub(crate) async fn more_than_the_limit_is_refused(way: Way) {
    let bed = Bed::with(way, |options| options.limit = 2).await;
    let first = bed.submit().await;
    bed.submit().await;
    assert_eq!(bed.queen.submit(job()).await.unwrap_err(), BrokerError::Full { limit: 2 });
    // One that runs counts, one that has ended does not.
    assert_eq!(bed.claim().await.attempt.job_id, first);
    assert_eq!(bed.queen.submit(job()).await.unwrap_err(), BrokerError::Full { limit: 2 });
    bed.hive.finish(&AttemptId { job_id: first, number: 1 }, Ending::Cancelled).await.unwrap();
    assert!(bed.queen.submit(job()).await.is_ok());
}

pub(crate) async fn what_is_no_job_is_refused(way: Way) {
    let bed = Bed::new(way).await;
    let mut bad = Vec::new();
    for id in ["", "job", "job-../x", "JOB-1"] {
        bad.push(NewJob { job_id: id.to_owned(), ..job() });
    }
    bad.push(NewJob { want: Want { hive_id: None, ..Want::hive("h") }, ..job() });
    bad.push(NewJob { want: Want::model(WorkKind::Image, ""), ..job() });
    for key in ["", &"k".repeat(256)] {
        bad.push(NewJob { idempotency: Some(Idempotency::new(key, b"")), ..job() });
    }
    for job in bad {
        let error = bed.queen.submit(job.clone()).await.unwrap_err();
        assert!(matches!(error, BrokerError::Invalid { .. }), "{job:?}: {error}");
    }
    for id in ["job-1", "", "'; DROP TABLE jobs; --"] {
        assert_eq!(bed.queen.job(id).await.unwrap_err(), BrokerError::NotFound { job_id: id.to_owned() });
        assert!(bed.queen.watch(id, 0).await.is_err());
        assert!(bed.queen.cancel(id).await.is_err());
    }
}

pub(crate) async fn everybody_who_listens_hears_everything(way: Way) {
    let bed = Bed::new(way).await;
    let id = bed.submit().await;
    let early = bed.queen.watch(&id, 0).await.unwrap();
    assert_eq!(bed.queen.watch(&id, 2).await.err(), Some(BrokerError::Beyond { after: 2, last: 1 }));
    let attempt = bed.claim().await.attempt;
    bed.hive.append(&attempt, 1, vec![started(), step(1)]).await.unwrap();
    let later = bed.queen.watch(&id, 2).await.unwrap();
    bed.hive.append(&attempt, 3, vec![step(2)]).await.unwrap();
    let record = bed.queen.job(&id).await.unwrap();
    assert_eq!(
        (record.job.state, record.job.attempt, record.job.worker_id.as_deref()),
        (JobState::Running, 1, Some("w"))
    );
    assert_eq!(record.job.progress.unwrap().step, 2);
    let error = ApiError::invalid("width", "no");
    bed.hive.finish(&attempt, Ending::Error(error.clone())).await.unwrap();

    let expected = ["queued", "started", "progress", "progress", "error"];
    let early: Vec<_> = early.map(|item| item.unwrap()).map(|(id, event)| (id, event.name())).collect().await;
    assert_eq!(early, (1..).zip(expected).collect::<Vec<_>>());
    let later: Vec<_> = later.map(|item| item.unwrap().0).collect().await;
    assert_eq!(later, [3, 4, 5]);
    assert_eq!(bed.names(&id).await, expected);
    assert!(bed.queen.watch(&id, 5).await.unwrap().next().await.is_none());
    assert!(matches!(&bed.log(&id).await[1].1, JobEvent::Started { attempt: 1, .. }), "the number is the broker's");

    let bed = bed.restart().await;
    assert_eq!(bed.names(&id).await, expected);
    let record = bed.queen.job(&id).await.unwrap();
    assert_eq!((record.job.state, record.job.error), (JobState::Error, Some(error)));
    assert!(record.job.finished_ms >= record.job.started_ms);
}

pub(crate) async fn who_waits_hears_that_he_moves_up(way: Way) {
    let bed = Bed::new(way).await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(bed.submit().await);
    }
    let mut waiting = bed.queen.watch(&ids[2], 0).await.unwrap();
    let mut position = async || match &*waiting.next().await.unwrap().unwrap().1 {
        JobEvent::Queued { position } => *position,
        other => panic!("{other:?}"),
    };
    assert_eq!(position().await, 3);
    bed.claim().await;
    assert_eq!(position().await, 2);
    bed.queen.cancel(&ids[1]).await.unwrap();
    assert_eq!(position().await, 1);
    bed.queen.cancel(&ids[2]).await.unwrap();
    drop(waiting);
    assert_eq!(bed.names(&ids[2]).await, ["queued", "queued", "queued", "cancelled"]);
}

pub(crate) async fn a_slow_listener_misses_nothing(way: Way) {
    let bed = Bed::new(way).await;
    let id = bed.submit().await;
    let mut slow = bed.queen.watch(&id, 0).await.unwrap();
    assert_eq!(slow.next().await.unwrap().unwrap().0, 1);
    let attempt = bed.claim().await.attempt;
    // More than is kept in memory for him.
    for batch in 0..20_u64 {
        bed.hive.append(&attempt, batch * 50 + 1, (0..50).map(step).collect()).await.unwrap();
    }
    bed.hive.finish(&attempt, Ending::Cancelled).await.unwrap();
    let ids: Vec<u64> = slow.map(|item| item.unwrap().0).collect().await;
    assert_eq!(ids, (2..=1002).collect::<Vec<_>>());
}

pub(crate) async fn a_thousand_listen_to_one_stream(way: Way) {
    let bed = Bed::new(way).await;
    let id = bed.submit().await;
    let mut listeners = tokio::task::JoinSet::new();
    for _ in 0..1000 {
        let events = bed.queen.watch(&id, 0).await.unwrap();
        listeners.spawn(events.map(|item| item.unwrap().0).collect::<Vec<u64>>());
    }
    let attempt = bed.claim().await.attempt;
    for number in 1..=20 {
        bed.hive.append(&attempt, number, vec![step(number)]).await.unwrap();
    }
    bed.hive.finish(&attempt, bed.picture(b"picture").await).await.unwrap();
    while let Some(ids) = listeners.join_next().await {
        assert_eq!(ids.unwrap(), (1..=22).collect::<Vec<_>>());
    }
}

pub(crate) async fn previews_are_live_only(way: Way) {
    let bed = Bed::new(way).await;
    let id = bed.submit().await;
    let mut live = bed.queen.watch(&id, 1).await.unwrap();
    let attempt = bed.claim().await.attempt;
    let preview = JobEvent::Preview { step: 1, image: vec![1, 2].into(), format: ImageFormat::Jpeg };
    let appended = bed.hive.append(&attempt, 1, vec![started(), preview.clone()]).await.unwrap();
    assert_eq!(appended.last_event_id, 3);
    assert_eq!(live.next().await.unwrap().unwrap().0, 2);
    let (number, event) = live.next().await.unwrap().unwrap();
    assert_eq!((number, &*event), (3, &preview));
    drop(live);
    let bed = bed.restart().await;
    bed.hive.append(&attempt, 3, vec![step(1)]).await.unwrap();
    bed.hive.finish(&attempt, Ending::Cancelled).await.unwrap();
    let ids: Vec<u64> = bed.log(&id).await.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, [1, 2, 4, 5], "the preview's number is nobody else's");
}

pub(crate) async fn what_was_appended_is_not_appended_again(way: Way) {
    let bed = Bed::new(way).await;
    let id = bed.submit().await;
    let attempt = bed.claim().await.attempt;
    bed.hive.append(&attempt, 1, vec![started(), step(1)]).await.unwrap();
    let again = bed.hive.append(&attempt, 1, vec![started(), step(1)]).await.unwrap();
    assert_eq!(again.last_event_id, 3);
    let overlap = bed.hive.append(&attempt, 2, vec![step(1), step(2)]).await.unwrap();
    assert_eq!(overlap.last_event_id, 4);
    let refused = [
        (5, vec![step(9)]),
        (0, vec![step(9)]),
        (4, vec![JobEvent::Cancelled {}]),
        (4, vec![JobEvent::Queued { position: 1 }]),
    ];
    for (sequence, events) in refused {
        let error = bed.hive.append(&attempt, sequence, events).await.unwrap_err();
        assert!(matches!(error, BrokerError::Invalid { .. }), "{error}");
    }
    bed.hive.finish(&attempt, Ending::Cancelled).await.unwrap();
    assert_eq!(bed.names(&id).await, ["queued", "started", "progress", "progress", "cancelled"]);
}

pub(crate) async fn a_job_ends_once(way: Way) {
    let bed = Bed::new(way).await;
    let id = bed.submit().await;
    let attempt = bed.claim().await.attempt;
    let result = Ending::Complete(Outcome::Result { result: serde_json::json!({"answer": 42.5}) });
    bed.hive.finish(&attempt, result.clone()).await.unwrap();
    bed.hive.finish(&attempt, result).await.unwrap();
    let other = AttemptId { number: 2, ..attempt.clone() };
    assert!(matches!(bed.hive.finish(&other, Ending::Cancelled).await, Err(BrokerError::Stale { .. })));
    assert!(matches!(bed.hive.renew(&attempt).await, Err(BrokerError::Stale { .. })));
    assert!(matches!(bed.hive.append(&attempt, 1, vec![step(1)]).await, Err(BrokerError::Stale { .. })));
    bed.queen.cancel(&id).await.unwrap();
    assert_eq!(bed.names(&id).await, ["queued", "complete"]);
    let result = bed.queen.job(&id).await.unwrap().job.result;
    assert_eq!(result, Some(Completion::Result { result: serde_json::json!({"answer": 42.5}) }));
    assert!(bed.queen.settled(&id, Duration::ZERO).await.unwrap());
}

pub(crate) async fn a_picture_comes_back(way: Way) {
    let bed = Bed::new(way).await;
    let id = bed.submit().await;
    let live = bed.queen.watch(&id, 1).await.unwrap();
    let attempt = bed.claim().await.attempt;
    let unknown = PictureRef { blob: broker::BlobId::of(b"never put"), seed: 1 };
    let images = |pictures| {
        let (format, width, height, model) = (ImageFormat::Png, None, None, None);
        Ending::Complete(Outcome::Images { pictures, format, width, height, model })
    };
    let error = bed.hive.finish(&attempt, images(vec![unknown.clone()])).await.unwrap_err();
    assert_eq!(error, BrokerError::NoBlob { blob: unknown.blob });
    assert!(matches!(bed.hive.finish(&attempt, images(vec![])).await, Err(BrokerError::Invalid { .. })));
    let mut pictures = Vec::new();
    // A large one, which is a file, and a small one.
    let large: &[u8] = &vec![7; 200_000];
    for (seed, bytes) in [(7, large.to_vec()), (8, b"second".to_vec())] {
        pictures.push(PictureRef { blob: bed.hive.put_blob(bytes.into()).await.unwrap(), seed });
    }
    bed.hive.finish(&attempt, images(pictures.clone())).await.unwrap();

    let complete = |event: &JobEvent| match event {
        JobEvent::Complete(Completion::Image(completion)) => completion.clone(),
        other => panic!("{other:?}"),
    };
    let live: Vec<_> = live.map(|item| complete(&item.unwrap().1)).collect().await;
    let bed = bed.restart().await;
    let replayed = complete(&bed.log(&id).await[1].1);
    assert_eq!(live, std::slice::from_ref(&replayed));
    assert_eq!((&*replayed.image, replayed.seed), (large, 7));
    assert_eq!(replayed.images[1].url, format!("/v1/jobs/{id}/images/1"));
    let record = bed.queen.job(&id).await.unwrap();
    assert_eq!(record.job.result, Some(Completion::Image(replayed)));
    assert_eq!(record.pictures, pictures);
    assert_eq!(&bed.queen.blob(&pictures[1].blob).await.unwrap()[..], b"second");

    // A picture that somebody has deleted: the listener is told so, and that nothing comes after it.
    let first = pictures[0].blob.as_str();
    std::fs::remove_file(bed.folder.path().join("blobs").join(&first[..2]).join(first)).unwrap();
    assert_eq!(bed.names(&id).await, ["queued", "error"]);
    let job = bed.queen.job(&id).await.unwrap().job;
    assert_eq!((job.state, job.result.is_none(), job.error.is_some()), (JobState::Complete, true, true));
}

pub(crate) async fn images_of_a_request_are_blobs(way: Way) {
    let bed = Bed::new(way).await;
    let mut png = Vec::new();
    // Noise, which does not shrink: it is too large for the database, and a file.
    let pixels = image::RgbImage::from_fn(256, 256, |x, y| {
        let [red, green, blue, _] = (x * 31 + y * 1009 + 1).wrapping_pow(5).wrapping_mul(2_654_435_761).to_be_bytes();
        image::Rgb([red, green, blue])
    });
    pixels.write_to(&mut Cursor::new(&mut png), image::ImageFormat::Png).unwrap();
    let mut request = ImageTransformRequest { init_image: png.clone().into(), ..ImageTransformRequest::default() };
    request.prompt = "a blue circle".to_owned();
    let whole = Operation::from(request).validate().unwrap();
    let stored = StoredOperation::store(whole.clone(), &*bed.hive).await.unwrap();
    let want = Want::model(WorkKind::Image, "tiny-scenes");
    bed.queen.submit(NewJob::new(stored.clone(), want.clone())).await.unwrap();
    assert!(png.len() > 128 * 1024);
    let bed = bed.restart().await;
    let claim = bed.claim().await;
    assert_eq!(claim.operation, stored);
    assert_eq!(claim.operation.load(&*bed.hive).await.unwrap(), whole);

    let path = bed.folder.path().join("blobs");
    let file = path.join(&stored.images()[0].as_str()[..2]).join(stored.images()[0].as_str());
    std::fs::write(&file, b"damaged").unwrap();
    assert!(matches!(bed.queen.blob(&stored.images()[0]).await, Err(BrokerError::Corrupt { .. })));

    let mut never = serde_json::to_value(&stored).unwrap();
    never["images"][0] = broker::BlobId::of(b"never put").as_str().into();
    let never: StoredOperation = serde_json::from_value(never).unwrap();
    let error = bed.queen.submit(NewJob::new(never, want)).await.unwrap_err();
    assert!(matches!(error, BrokerError::NoBlob { .. }), "{error}");
}

pub(crate) async fn a_job_that_waits_is_cancelled_at_once(way: Way) {
    let bed = Bed::new(way).await;
    let id = bed.submit().await;
    bed.queen.cancel(&id).await.unwrap();
    bed.queen.cancel(&id).await.unwrap();
    assert_eq!(bed.names(&id).await, ["queued", "cancelled"]);
    assert!(bed.try_claim().await.is_none());
    assert_eq!(bed.queen.job(&id).await.unwrap().job.state, JobState::Cancelled);
}

pub(crate) async fn the_holder_is_told_that_it_is_cancelled(way: Way) {
    let bed = Bed::new(way).await;
    let id = bed.submit().await;
    let attempt = bed.claim().await.attempt;
    assert!(!bed.hive.cancelled(&attempt, Duration::from_millis(10)).await.unwrap());
    assert!(!bed.hive.renew(&attempt).await.unwrap().cancelled);
    let waiting = {
        let (hive, attempt) = (bed.hive.clone(), attempt.clone());
        tokio::spawn(async move { hive.cancelled(&attempt, Duration::from_secs(30)).await })
    };
    bed.queen.cancel(&id).await.unwrap();
    assert!(waiting.await.unwrap().unwrap());
    assert!(bed.hive.renew(&attempt).await.unwrap().cancelled);
    assert!(bed.hive.append(&attempt, 1, vec![step(1)]).await.unwrap().cancelled);
    assert!(bed.queen.job(&id).await.unwrap().cancel_requested);
    let bed = bed.restart().await;
    assert!(bed.hive.renew(&attempt).await.unwrap().cancelled);
    bed.hive.finish(&attempt, Ending::Cancelled).await.unwrap();
    assert!(matches!(bed.hive.cancelled(&attempt, Duration::from_secs(30)).await, Err(BrokerError::Stale { .. })));
}

pub(crate) async fn what_nobody_will_serve_is_refused(way: Way) {
    let bed = Bed::new(way).await;
    let error = ApiError::new(ErrorCode::NotFound, "the worker w is gone").with_param("worker_id");
    let id = bed.submit().await;
    assert!(bed.queen.refuse(&id, error.clone()).await.unwrap());
    assert!(!bed.queen.refuse(&id, error.clone()).await.unwrap());
    assert_eq!(bed.names(&id).await, ["queued", "error"]);
    let id = bed.submit().await;
    bed.claim().await;
    assert!(!bed.queen.refuse(&id, error).await.unwrap());
}

pub(crate) async fn jobs_are_listed_newest_first(way: Way) {
    let bed = Bed::new(way).await;
    let mut ids = Vec::new();
    for owner in ["a", "b", "a"] {
        ids.push(bed.queen.submit(owned(owner)).await.unwrap().job_id);
    }
    ids.push(bed.queen.submit(NewJob::new(stored(&operation("x")), Want::hive("h"))).await.unwrap().job_id);
    let list = async |filter: JobFilter| -> Vec<String> {
        let listed = bed.queen.list(filter).await.unwrap();
        listed.into_iter().map(|record| record.job.job_id).collect()
    };
    let all = JobFilter { limit: 10, ..JobFilter::default() };
    assert_eq!(list(all.clone()).await, [&*ids[3], &ids[2], &ids[1], &ids[0]]);
    assert_eq!(list(JobFilter { limit: 1, ..all.clone() }).await, [&*ids[3]]);
    let owner = owned("a").owner;
    assert_eq!(list(JobFilter { owner, ..all.clone() }).await, [&*ids[2], &ids[0]]);
    bed.queen.cancel(&ids[1]).await.unwrap();
    assert_eq!(list(JobFilter { state: Some(JobState::Cancelled), ..all }).await, [&*ids[1]]);
    let waiting = bed.queen.waiting(10).await.unwrap();
    let waiting: Vec<_> = waiting.iter().map(|waiting| (&*waiting.job_id, waiting.position)).collect();
    assert_eq!(waiting, [(&*ids[0], 1), (&*ids[3], 1), (&*ids[2], 2)]);
}
