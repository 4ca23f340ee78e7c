//! Fields of a request, read strictly and refused in our own words: what a field must be, in one sentence, with its place as `param`.

use super::{Refusal, invalid};
use serde_json::{Map, Value};
use std::ops::RangeInclusive;

/// The fields of an object that were not read yet.
#[derive(Debug)]
pub(super) struct Fields {
    left: Map<String, Value>,
    /// Where the object lies, like `messages[0].`; empty for the body itself.
    place: String,
}

impl Fields {
    /// The body of a request.
    pub fn read(body: &[u8]) -> Result<Fields, Refusal> {
        let value = serde_json::from_slice(body).map_err(|e| {
            let (line, column) = (e.line(), e.column());
            invalid("", &format!("the body is no JSON that can be read: look at line {line}, column {column}"))
        })?;
        match value {
            Value::Object(left) => Ok(Fields { left, place: String::new() }),
            _ => Err(invalid("", "the body is a JSON object, with a field for each thing that is asked for")),
        }
    }

    /// An object that lies at `place`, which is to be `what`.
    pub fn within(value: Value, place: &str, what: &str) -> Result<Fields, Refusal> {
        match value {
            Value::Object(left) => Ok(Fields { left, place: format!("{place}.") }),
            _ => Err(invalid(place, &format!("'{place}' is {what}"))),
        }
    }

    /// A field out of the others; null is as good as none.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.left.remove(name).filter(|value| !value.is_null())
    }

    /// A field that is to be `what`, and is if `read` can read it.
    pub fn read_as<T>(
        &mut self,
        name: &str,
        what: &str,
        read: impl FnOnce(Value) -> Option<T>,
    ) -> Result<Option<T>, Refusal> {
        let Some(value) = self.take(name) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| self.wrong(name, what))
    }

    /// A text.
    pub fn text(&mut self, name: &str) -> Result<Option<String>, Refusal> {
        self.read_as(name, "a text", text)
    }

    /// Yes or no.
    pub fn flag(&mut self, name: &str) -> Result<Option<bool>, Refusal> {
        self.read_as(name, "true or false", |value| value.as_bool())
    }

    /// An integer within bounds.
    pub fn integer(&mut self, name: &str, bounds: RangeInclusive<i64>) -> Result<Option<i64>, Refusal> {
        let what = format!("an integer from {} to {}", bounds.start(), bounds.end());
        self.read_as(name, &what, |value| value.as_i64().filter(|number| bounds.contains(number)))
    }

    /// An integer within bounds that fit.
    pub fn count(&mut self, name: &str, bounds: RangeInclusive<u32>) -> Result<Option<u32>, Refusal> {
        let number = self.integer(name, i64::from(*bounds.start())..=i64::from(*bounds.end()))?;
        Ok(number.and_then(|number| u32::try_from(number).ok()))
    }

    /// A number within bounds.
    pub fn number(&mut self, name: &str, bounds: RangeInclusive<f64>) -> Result<Option<f64>, Refusal> {
        let what = format!("a number from {} to {}", bounds.start(), bounds.end());
        self.read_as(name, &what, |value| value.as_f64().filter(|number| bounds.contains(number)))
    }

    /// The refusal of a field that is not `what` it is to be.
    pub fn wrong(&self, name: &str, what: &str) -> Refusal {
        let place = format!("{}{name}", self.place);
        invalid(&place, &format!("'{place}' is {what}"))
    }

    /// Nothing may be left.
    pub fn end(self) -> Result<(), Refusal> {
        let Some((name, _)) = self.left.iter().find(|(_, value)| !value.is_null()) else { return Ok(()) };
        Err(self.wrong(name, "not supported"))
    }
}

/// A text, if it is one.
pub(super) fn text(value: Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text),
        _ => None,
    }
}

/// A list, if all of it can be read.
pub(super) fn list<T>(value: Value, read: impl Fn(Value) -> Option<T>) -> Option<Vec<T>> {
    match value {
        Value::Array(all) => all.into_iter().map(read).collect(),
        _ => None,
    }
}
