//! From a conversation to the text that a model continues, and from what it wrote to the functions that it calls.

mod grammar;
mod schema;
mod template;
mod tools;

pub use grammar::{Grammar, Strictness};
pub use schema::schema_grammar;
pub use template::{CHATML, ChatTemplate};
pub use tools::{CallFormat, Calls};
