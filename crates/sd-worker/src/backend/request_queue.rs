//! The queue of this worker's requests.

use operations_contract::SdWorkerOperation;

/// The way in; see [`worker_engine::RequestQueue`].
pub type RequestQueue = worker_engine::RequestQueue<SdWorkerOperation>;
/// The way out, owned by the engine.
pub type RequestReceiver = worker_engine::RequestReceiver<SdWorkerOperation>;
/// One checked operation and where its answers go.
pub type GenerationRequest = worker_engine::GenerationRequest<SdWorkerOperation>;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::tests::{generation, request};

    #[test]
    fn requests_come_out_in_the_order_in_which_they_went_in() {
        let (queue, mut receiver) = RequestQueue::new();
        for seed in [3, 1, 2] {
            let (request, _responses) = request(generation("a star", seed));
            queue.add_request(request).unwrap();
        }
        let seeds: Vec<_> = (0..3)
            .map(|_| match receiver.next_request().unwrap().request {
                SdWorkerOperation::ImageGeneration(request) => request.seed.unwrap(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(seeds, [3, 1, 2]);
    }
}
