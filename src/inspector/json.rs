//! Writes JSON.

use std::fmt::{Display, Write};

/// A JSON document in the making. A value follows each key, and each call of `object` or `array`
/// contains what its closure writes.
#[derive(Debug, Default)]
pub(super) struct Json {
    text: String,
    /// Whether a comma must precede the next value or key.
    has_before: bool,
}

impl Json {
    /// Returns a document that is one object.
    pub(super) fn document(write: impl FnOnce(&mut Json)) -> String {
        let mut json = Json::default();
        json.object(write);
        json.text
    }

    pub(super) fn object(&mut self, write: impl FnOnce(&mut Json)) {
        self.enclose('{', '}', write);
    }

    pub(super) fn array(&mut self, write: impl FnOnce(&mut Json)) {
        self.enclose('[', ']', write);
    }

    fn enclose(&mut self, begin: char, end: char, write: impl FnOnce(&mut Json)) {
        self.separate();
        self.text.push(begin);
        self.has_before = false;
        write(self);
        self.text.push(end);
        self.has_before = true;
    }

    fn separate(&mut self) {
        if self.has_before {
            self.text.push(',');
        }
    }

    pub(super) fn key(&mut self, key: &str) -> &mut Json {
        self.string(key);
        self.text.push(':');
        self.has_before = false;
        self
    }

    pub(super) fn string(&mut self, value: &str) {
        self.separate();
        self.text.push('"');
        for c in value.chars() {
            match c {
                '"' | '\\' => self.text.extend(['\\', c]),
                '\u{0}'..='\u{1f}' => _ = write!(self.text, "\\u{:04x}", u32::from(c)),
                c => self.text.push(c),
            }
        }
        self.text.push('"');
        self.has_before = true;
    }

    /// A number, `true` or `false`.
    pub(super) fn literal(&mut self, value: impl Display) {
        self.separate();
        // Writing to a string does not fail.
        let _ = write!(self.text, "{value}");
        self.has_before = true;
    }

    pub(super) fn null(&mut self) {
        self.literal("null");
    }

    /// A key with a text.
    pub(super) fn text(&mut self, key: &str, value: &str) {
        self.key(key).string(value);
    }

    /// A key with a number, `true` or `false`.
    pub(super) fn value(&mut self, key: &str, value: impl Display) {
        self.key(key).literal(value);
    }

    /// Same as [`value`](Json::value); `null` if there is none.
    pub(super) fn optional(&mut self, key: &str, value: Option<impl Display>) {
        match value {
            Some(value) => self.value(key, value),
            None => self.key(key).null(),
        }
    }

    /// Same as [`text`](Json::text); `null` if there is none.
    pub(super) fn optional_text(&mut self, key: &str, value: Option<impl Display>) {
        match value {
            Some(value) => self.text(key, &value.to_string()),
            None => self.key(key).null(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Json;

    #[test]
    fn values_of_all_kinds_are_separated_and_escaped() {
        let text = Json::document(|json| {
            json.text("a \"b\"", "\\ \n \u{1} é");
            json.key("list").array(|json| {
                json.literal(1);
                json.object(|_| ());
                json.array(|json| json.null());
                json.string("x");
            });
            json.value("yes", true);
            json.optional("none", None::<u64>);
            json.optional_text("some", Some("text"));
        });
        assert_eq!(
            text,
            r#"{"a \"b\"":"\\ \u000a \u0001 é","list":[1,{},[null],"x"],"yes":true,"none":null,"some":"text"}"#
        );
    }
}
