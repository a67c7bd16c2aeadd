//! Rules in llama.cpp's GBNF.

use std::fmt::Write as _;

/// What is done with a keyword that a grammar cannot hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strictness {
    /// It is refused.
    Strict,
    /// It is passed over.
    Lenient,
}

/// A grammar on its way: rules by name, and those of plain JSON as they are needed.
#[derive(Debug, Default)]
pub struct Grammar {
    rules: Vec<(String, String)>,
    count: usize,
}

impl Grammar {
    /// A new rule; its name.
    pub fn rule(&mut self, stem: &str, expression: impl Into<String>) -> String {
        let name = self.reserve(stem);
        self.define(&name, expression.into());
        name
    }

    /// A name for a rule that is defined later.
    pub(super) fn reserve(&mut self, stem: &str) -> String {
        self.count += 1;
        format!("{stem}-{}", self.count)
    }

    pub(super) fn define(&mut self, name: &str, expression: String) {
        self.rules.push((name.to_owned(), expression));
    }

    /// The whole grammar, which begins with `root`.
    pub fn finish(&self, root: &str) -> String {
        let mut text = format!("root ::= {root}\n");
        for (name, expression) in &self.rules {
            let _ = writeln!(text, "{name} ::= {expression}");
        }
        text
    }

    /// White space, not without end: a model that likes it would never come to the point.
    pub(super) fn space(&mut self) -> String {
        self.shared("ws", |_| "(\" \" | \"\\n\" [ \\t]{0,20})?".to_owned())
    }

    pub(super) fn char(&mut self) -> String {
        let plain = r#"[^"\\\x7F\x00-\x1F] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F]{4})"#;
        self.shared("char", |_| plain.to_owned())
    }

    pub(super) fn string(&mut self) -> String {
        self.shared("string", |grammar| format!("\"\\\"\" {}* \"\\\"\"", grammar.char()))
    }

    pub(super) fn integer(&mut self) -> String {
        self.shared("integer", |_| "\"-\"? (\"0\" | [1-9] [0-9]{0,15})".to_owned())
    }

    pub(super) fn number(&mut self) -> String {
        self.shared("number", |grammar| {
            format!("{} (\".\" [0-9]{{1,16}})? ([eE] [-+]? [0-9]{{1,3}})?", grammar.integer())
        })
    }

    pub(super) fn object(&mut self) -> String {
        self.shared("object", |grammar| {
            let (ws, string) = (grammar.space(), grammar.string());
            let member = format!("{string} {ws} \":\" {ws} value");
            grammar.value();
            format!("\"{{\" {ws} ({member} ({ws} \",\" {ws} {member})*)? {ws} \"}}\"")
        })
    }

    /// Any JSON.
    pub(super) fn value(&mut self) -> String {
        self.shared("value", |grammar| {
            let (object, string, number, ws) = (grammar.object(), grammar.string(), grammar.number(), grammar.space());
            let array = format!("\"[\" {ws} (value ({ws} \",\" {ws} value)*)? {ws} \"]\"");
            format!("{object} | {array} | {string} | {number} | \"true\" | \"false\" | \"null\"")
        })
    }

    /// A rule of plain JSON, made when it is first needed. Its name is there before its expression, which may need it.
    fn shared(&mut self, name: &str, expression: impl FnOnce(&mut Self) -> String) -> String {
        if !self.rules.iter().any(|(known, _)| known == name) {
            let place = self.rules.len();
            self.rules.push((name.to_owned(), String::new()));
            let expression = expression(self);
            self.rules[place].1 = expression;
        }
        name.to_owned()
    }
}
