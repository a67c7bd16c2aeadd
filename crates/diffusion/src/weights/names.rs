//! The names of older releases, as diffusers and transformers still read them.

/// The projections of attention in the autoencoder: today's name and that of
/// <https://github.com/huggingface/diffusers/blob/v0.42.1/src/diffusers/models/modeling_utils.py> `_convert_deprecated_attention_blocks`.
const ATTENTION: [(&str, &str); 4] = [("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")];

/// The start of every name in a text encoder's file; transformers 5 writes none of it.
const TEXT_MODEL: &str = "text_model.";

/// Other names that the tensor `full` may be stored under.
pub(super) fn older(full: &str) -> Vec<String> {
    let mut names = Vec::new();
    match full.strip_prefix(TEXT_MODEL) {
        Some(rest) => names.push(rest.to_owned()),
        None => names.push(format!("{TEXT_MODEL}{full}")),
    }
    if let Some((part, projection, parameter)) = projection(full)
        && let Some((_, old)) = ATTENTION.iter().find(|(new, _)| *new == projection)
    {
        names.push(format!("{part}.{old}.{parameter}"));
    }
    names
}

/// Whether a tensor that nobody uses is worth no warning: the numbers 0, 1, 2, …, which older text encoders store.
pub(super) fn harmless(name: &str) -> bool {
    name == "position_ids" || name.ends_with(".position_ids")
}

/// Whether a tensor stored with the shape `found` is what `expected` asks for: the autoencoder's attention was once made of 1 × 1
/// convolutions, whose (C, C, 1, 1) weights are the matrix (C, C).
pub(super) fn same_shape(full: &str, found: &[usize], expected: &[usize]) -> bool {
    found == expected
        || (projection(full).is_some()
            && found.len() == 4
            && expected.len() == 2
            && found[..2] == *expected
            && found[2..] == [1, 1])
}

/// Splits `….attentions.N.to_q.weight` into the part, the projection and the parameter.
fn projection(full: &str) -> Option<(&str, &str, &str)> {
    let (path, parameter) = full.rsplit_once('.')?;
    let (part, projection) =
        ATTENTION.iter().find_map(|(new, _)| Some((path.strip_suffix(new)?.strip_suffix('.')?, *new)))?;
    let (list, index) = part.rsplit_once('.')?;
    (list.ends_with("attentions") && index.bytes().all(|b| b.is_ascii_digit())).then_some((part, projection, parameter))
}
