use crate::bed::{Bed, LEASE, Way, job};
use broker::{BlobId, BrokerError, Ending, Idempotency, NewJob, Role};
use std::time::Duration;

const DAY: Duration = Duration::from_secs(24 * 3600);

pub(crate) async fn old_jobs_expire(way: Way) {
    let bed = Bed::with(way, |options| options.lease = DAY * 30).await;
    let named = || NewJob { idempotency: Some(Idempotency::new("k", b"1")), ..job() };
    let done = bed.queen.submit(named()).await.unwrap().job_id;
    let attempt = bed.claim().await.attempt;
    bed.hive.finish(&attempt, bed.picture(b"picture").await).await.unwrap();
    let waits = bed.submit().await;
    let blob = BlobId::of(b"picture");
    bed.leap(DAY * 6).await;
    assert!(bed.queen.job(&done).await.is_ok());
    assert!(bed.queen.blob(&blob).await.is_ok(), "what a job refers to is kept with it");
    bed.leap(DAY * 2).await;
    let expired = BrokerError::Expired { job_id: done.clone() };
    assert_eq!(bed.queen.job(&done).await.unwrap_err(), expired);
    assert_eq!(bed.queen.watch(&done, 0).await.err(), Some(expired.clone()));
    assert!(matches!(bed.queen.job("job-0").await, Err(BrokerError::NotFound { .. })));
    assert!(bed.queen.job(&waits).await.is_ok(), "what has not ended is never too old");
    bed.leap(DAY).await;
    assert_eq!(bed.queen.blob(&blob).await.unwrap_err(), BrokerError::NoBlob { blob });
    assert!(bed.queen.submit(named()).await.unwrap().new);
    let bed = bed.restart().await;
    assert_eq!(bed.queen.job(&done).await.unwrap_err(), expired);
}

pub(crate) async fn too_much_is_dropped_oldest_first(way: Way) {
    let bed = Bed::with(way, |options| (options.keep_bytes, options.lease) = (25_000, LEASE)).await;
    let mut ids = Vec::new();
    for picture in [&[1_u8; 10_000], &[2; 10_000], &[3; 10_000]] {
        ids.push(bed.submit().await);
        let attempt = bed.claim().await.attempt;
        bed.hive.finish(&attempt, bed.picture(picture).await).await.unwrap();
        bed.leap(Duration::from_millis(5)).await;
    }
    bed.leap(Duration::from_secs(120)).await;
    assert!(matches!(bed.queen.job(&ids[0]).await, Err(BrokerError::Expired { .. })));
    assert!(bed.queen.job(&ids[1]).await.is_ok());
    assert!(bed.queen.job(&ids[2]).await.is_ok());
    let attempt = bed.submit().await;
    bed.queen.cancel(&attempt).await.unwrap();
    assert!(bed.hive.finish(&broker::AttemptId { job_id: attempt, number: 1 }, Ending::Cancelled).await.is_err());
}

pub(crate) async fn a_key_is_known_until_it_is_revoked(way: Way) {
    let bed = Bed::new(way).await;
    let laptop = bed.queen.create_key("laptop", Role::User).await.unwrap();
    let admin = bed.queen.create_key("admin", Role::Admin).await.unwrap();
    assert!(laptop.secret.starts_with("rbee_") && laptop.secret.len() > 40);
    assert!(!format!("{laptop:?}").contains(&laptop.secret));
    let taken = bed.queen.create_key("laptop", Role::Hive).await.unwrap_err();
    assert_eq!(taken, BrokerError::NameTaken { name: "laptop".to_owned() });
    assert!(bed.queen.create_key("", Role::User).await.is_err());

    let bed = bed.restart().await;
    assert_eq!(bed.queen.check_key(&laptop.secret).await.unwrap(), Some((laptop.id.clone(), Role::User)));
    assert_eq!(bed.queen.check_key(&admin.secret).await.unwrap(), Some((admin.id.clone(), Role::Admin)));
    for wrong in ["", "rbee_", &laptop.secret[1..], &format!("{}0", laptop.secret)] {
        assert_eq!(bed.queen.check_key(wrong).await.unwrap(), None, "{wrong:?}");
    }
    let swapped = laptop.secret.replace(&laptop.id.0, &admin.id.0);
    assert_eq!(bed.queen.check_key(&swapped).await.unwrap(), None);
    // The ways over HTTP have a token of their own.
    let keys = bed.queen.keys().await.unwrap().into_iter().filter(|key| key.role != Role::Hive).collect::<Vec<_>>();
    let told: Vec<_> = keys.iter().map(|key| (&*key.name, key.role, key.last_used_ms.is_some())).collect();
    assert!(told.len() == 2 && told.contains(&("laptop", Role::User, true)), "{told:?}");

    assert!(bed.queen.revoke_key("laptop").await.unwrap());
    assert!(!bed.queen.revoke_key("laptop").await.unwrap());
    assert!(bed.queen.revoke_key(&admin.id.0).await.unwrap());
    assert_eq!(bed.queen.check_key(&laptop.secret).await.unwrap(), None);
    let bed = bed.restart().await;
    assert_eq!(bed.queen.check_key(&laptop.secret).await.unwrap(), None);
    assert!(bed.queen.keys().await.unwrap().iter().all(|key| key.role == Role::Hive));
    assert!(bed.queen.create_key("laptop", Role::User).await.is_ok());
}
