//! The thread that owns the model.

use super::InferencePipeline;

/// See [`worker_engine::GenerationEngine`].
pub type GenerationEngine = worker_engine::GenerationEngine<InferencePipeline>;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::RequestQueue;
    use crate::backend::tests::{finish, generation, request, tiny_pipeline};
    use worker_engine::GenerationResponse;

    #[test]
    fn one_engine_paints_what_several_ask_for() {
        let (queue, receiver) = RequestQueue::new();
        let thread = GenerationEngine::loading(|| Ok(tiny_pipeline()), receiver).start().unwrap();
        let waiting: Vec<_> = (0..2)
            .map(|seed| {
                let (request, responses) = request(generation("a red circle on a blue background", seed));
                queue.add_request(request).unwrap();
                responses
            })
            .collect();
        for responses in waiting {
            let (steps, last) = finish(responses);
            assert_eq!(steps, [0, 1, 2, 3], "progress of every step, and of none before the first");
            assert!(matches!(last, GenerationResponse::Complete(_)), "{last:?}");
        }
        drop(queue);
        thread.join().unwrap();
    }
}
