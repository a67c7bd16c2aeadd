use super::*;
use proptest::prelude::*;
use std::time::Duration;

const MODELS: [&str; 3] = ["tiny-scenes", "sd-1.5", "mine"];

fn entry(number: Number, model: &str) -> Entry {
    Entry {
        number,
        job_id: format!("job-{number}"),
        owner: None,
        priority: Priority::Normal,
        want: Want::model(WorkKind::Image, model),
        created_ms: 0,
        not_before_ms: 0,
        crashes: 0,
    }
}

fn owner(name: &str) -> Option<KeyId> {
    Some(KeyId(name.to_owned()))
}

fn request(hive_id: &str, offers: Vec<Offer>) -> ClaimRequest {
    ClaimRequest::new(hive_id, 1, offers, Duration::ZERO)
}

fn worker(id: &str, model: &str) -> Offer {
    Offer::Worker { worker_id: id.to_owned(), kind: WorkKind::Image, model: model.to_owned() }
}

fn any() -> Offer {
    Offer::LoadAny { kind: WorkKind::Image, except: Vec::new() }
}

fn order(queue: &mut Queue, offers: &[Offer]) -> Vec<Number> {
    let request = request("h", offers.to_vec());
    let next = |queue: &mut Queue| {
        let (_, number, _) = queue.next(&[&request])?;
        queue.take(number).map(|entry| entry.number)
    };
    std::iter::from_fn(|| next(queue)).collect()
}

#[test]
fn priority_comes_before_arrival() {
    let mut queue = Queue::default();
    for (number, priority) in [(1, Priority::Low), (2, Priority::Normal), (3, Priority::High), (4, Priority::High)] {
        queue.insert(Entry { priority, ..entry(number, "mine") }, 0);
    }
    assert_eq!(queue.position(1), Some(4));
    assert_eq!(queue.position(4), Some(2));
    let front: Vec<_> = queue.front(&entry(1, "mine").want, 3).iter().map(|entry| entry.number).collect();
    assert_eq!(front, [3, 4, 2]);
    assert_eq!(order(&mut queue, &[any()]), [3, 4, 2, 1]);
}

#[test]
fn owners_take_turns_however_many_jobs_one_has() {
    let mut queue = Queue::default();
    for number in 1..=4 {
        queue.insert(Entry { owner: owner("a"), ..entry(number, "mine") }, 0);
    }
    queue.insert(Entry { owner: owner("b"), ..entry(5, "mine") }, 0);
    queue.insert(Entry { owner: owner("b"), ..entry(6, "mine") }, 0);
    let expected: Vec<String> = [1, 5, 2, 6, 3, 4].map(|number| format!("job-{number}")).to_vec();
    assert_eq!(queue.waiting(10).into_iter().map(|waiting| waiting.job_id).collect::<Vec<_>>(), expected);
    assert_eq!(order(&mut queue, &[any()]), [1, 5, 2, 6, 3, 4]);
}

#[test]
fn who_has_nothing_running_comes_before_who_was_served_longest_ago() {
    let mut queue = Queue::default();
    for (number, name) in [(1, "a"), (2, "b"), (3, "a"), (4, "b")] {
        queue.insert(Entry { owner: owner(name), ..entry(number, "mine") }, 0);
    }
    assert_eq!(queue.take(1).map(|entry| entry.number), Some(1));
    assert_eq!(queue.take(2).map(|entry| entry.number), Some(2));
    queue.ended(&owner("b"));
    let request = request("h", vec![any()]);
    assert_eq!(queue.next(&[&request]), Some((0, 4, 0)));
}

#[test]
fn the_hive_that_has_the_model_warm_gets_the_job() {
    let mut queue = Queue::default();
    queue.insert(entry(1, "stable-diffusion-v1-5/stable-diffusion-v1-5"), 0);
    let cold = request("cold", vec![any()]);
    let warm = request("warm", vec![any(), worker("w", "sd-1.5")]);
    assert_eq!(queue.next(&[&cold, &warm]), Some((1, 1, 1)));
    assert_eq!(queue.next(&[&cold]), Some((0, 1, 0)));
}

#[test]
fn what_was_named_is_honoured() {
    let mut queue = Queue::default();
    let base = Want::model(WorkKind::Image, "mine");
    queue.insert(Entry { want: Want { hive_id: Some("there".into()), ..base.clone() }, ..entry(1, "mine") }, 0);
    queue.insert(Entry { want: Want { worker_id: Some("w2".into()), ..base }, ..entry(2, "mine") }, 0);
    queue.insert(Entry { want: Want::hive("there"), ..entry(3, "") }, 0);
    let here = request("here", vec![any(), worker("w1", "mine"), Offer::Hive]);
    assert_eq!(queue.next(&[&here]), None);
    let there = request("there", vec![worker("w1", "mine")]);
    assert_eq!(queue.next(&[&there]), Some((0, 1, 0)));
    let named = request("here", vec![any(), worker("w2", "another")]);
    assert_eq!(queue.next(&[&named]), Some((0, 2, 1)));
    let hive = request("there", vec![Offer::Hive]);
    assert_eq!(queue.next(&[&hive]), Some((0, 3, 0)));
}

#[test]
fn what_is_excepted_is_not_loaded() {
    let mut queue = Queue::default();
    queue.insert(entry(1, "sd-1.5"), 0);
    queue.insert(entry(2, "mine"), 0);
    let except = vec!["stable-diffusion-v1-5".to_owned()];
    assert_eq!(order(&mut queue, &[Offer::LoadAny { kind: WorkKind::Image, except }]), [2]);
    let load = Offer::Load { kind: WorkKind::Infer, model: "sd-1.5".to_owned() };
    assert_eq!(order(&mut queue, &[load]), Vec::<Number>::new());
}

#[test]
fn nobody_is_taken_before_his_time() {
    let mut queue = Queue::default();
    queue.insert(Entry { not_before_ms: 10, ..entry(1, "mine") }, 5);
    queue.insert(entry(2, "mine"), 5);
    let request = request("h", vec![any()]);
    assert_eq!(queue.next(&[&request]), Some((0, 2, 0)));
    queue.remove(2);
    assert_eq!(queue.next(&[&request]), None);
    assert_eq!(queue.next_ripe_ms(), Some(10));
    queue.ripen(9);
    assert_eq!(queue.next(&[&request]), None);
    queue.ripen(10);
    assert_eq!(queue.next(&[&request]), Some((0, 1, 0)));
}

/// One thing that happens to a queue.
#[derive(Debug, Clone)]
enum Step {
    Insert { owner: usize, priority: usize, model: usize, hive: usize, delay: u64 },
    Claim { hive: usize, offers: Vec<usize> },
    End { which: usize },
    Remove { which: usize },
    Pass { ms: u64 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..3_usize, 0..3_usize, 0..3_usize, 0..4_usize, 0..3_u64).prop_map(|(owner, priority, model, hive, delay)| {
            Step::Insert { owner, priority, model, hive, delay: delay * 10 }
        }),
        3 => (0..2_usize, prop::collection::vec(0..7_usize, 1..4)).prop_map(|(hive, offers)| Step::Claim { hive, offers }),
        2 => (0..8_usize).prop_map(|which| Step::End { which }),
        1 => (0..20_usize).prop_map(|which| Step::Remove { which }),
        1 => (0..15_u64).prop_map(|ms| Step::Pass { ms }),
    ];
    prop::collection::vec(step, 1..80)
}

fn offer(which: usize) -> Offer {
    match which {
        0..3 => worker("w", MODELS[which]),
        3..6 => Offer::Load { kind: WorkKind::Image, model: MODELS[which - 3].to_owned() },
        _ => Offer::LoadAny { kind: WorkKind::Image, except: vec![MODELS[0].to_owned()] },
    }
}

/// The policy in its plainest form: of all that may be taken now, the smallest by the sentence in the documentation.
#[derive(Default)]
struct Oracle {
    waiting: Vec<Entry>,
    running: Vec<Entry>,
    served: Vec<Option<KeyId>>,
}

impl Oracle {
    fn next(&self, request: &ClaimRequest, now: u64) -> Option<Number> {
        let may = self.waiting.iter().filter(|entry| {
            let hive = entry.want.hive_id.as_ref().is_none_or(|hive| *hive == request.hive_id);
            hive && entry.not_before_ms <= now && request.offers.iter().any(|offer| fits(offer, &entry.want))
        });
        let rank = |entry: &&Entry| {
            let running = self.running.iter().filter(|other| other.owner == entry.owner).count();
            let served = self.served.iter().rposition(|owner| *owner == entry.owner).map_or(0, |turn| turn + 1);
            (Reverse(entry.priority), running, served, entry.number)
        };
        may.min_by_key(rank).map(|entry| entry.number)
    }
}

proptest! {
    #[test]
    fn the_order_is_the_one_that_is_promised(steps in steps()) {
        let (mut queue, mut oracle, mut now) = (Queue::default(), Oracle::default(), 0_u64);
        for (number, step) in (1..).zip(steps) {
            match step {
                Step::Insert { owner: name, priority, model, hive, delay } => {
                    let hive_id = ["here", "there"].get(hive).map(|id| (*id).to_owned());
                    let entry = Entry {
                        owner: ["a", "b"].get(name).and_then(|name| owner(name)),
                        priority: [Priority::Low, Priority::Normal, Priority::High][priority],
                        want: Want { hive_id, ..Want::model(WorkKind::Image, MODELS[model]) },
                        not_before_ms: if delay == 0 { 0 } else { now + delay },
                        ..entry(number, "")
                    };
                    queue.insert(entry.clone(), now);
                    oracle.waiting.push(entry);
                }
                Step::Claim { hive, offers } => {
                    let request = request(["here", "there"][hive], offers.into_iter().map(offer).collect());
                    queue.ripen(now);
                    let next = queue.next(&[&request]);
                    prop_assert_eq!(next.map(|(_, number, _)| number), oracle.next(&request, now));
                    if let Some((_, number, offer)) = next {
                        let entry = queue.take(number).unwrap();
                        prop_assert!(fits(&request.offers[offer], &entry.want));
                        oracle.waiting.retain(|other| other.number != number);
                        oracle.served.push(entry.owner.clone());
                        oracle.running.push(entry);
                    }
                }
                Step::End { which } => {
                    if which < oracle.running.len() {
                        queue.ended(&oracle.running.remove(which).owner);
                    }
                }
                Step::Remove { which } => {
                    if which < oracle.waiting.len() {
                        let entry = oracle.waiting.remove(which);
                        prop_assert_eq!(queue.remove(entry.number), Some(entry));
                    }
                }
                Step::Pass { ms } => now += ms,
            }
            prop_assert_eq!((queue.len(), queue.running()), (oracle.waiting.len(), oracle.running.len()));
            queue.ripen(now);
            let told = queue.waiting(usize::MAX);
            prop_assert_eq!(told.len(), oracle.waiting.len());
        }
    }
}
