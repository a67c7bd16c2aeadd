//! Weight files: memory-mapped safetensors, shards, old names.
