//! Changing one member of a JSON object in its text. Pure.
//!
//! Ensures: every other byte stays as it is, whatever nobody knows and however it is laid out; a member that is added looks
//! like the one before it. Assumes that the text is JSON, as whoever checks a document first knows.

use std::fmt;
use std::ops::Range;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Where in a text an object's members are.
struct Object {
    /// Behind the `{`.
    start: usize,
    members: Vec<Member>,
}

struct Member {
    name: String,
    /// With its quotes.
    key: Range<usize>,
    value: Range<usize>,
}

/// Sets the member that `path` leads to, which may be new; all before it are objects that are there.
pub(super) fn set(text: &str, path: &[&str], value: &str) -> Result<String> {
    let (object, name) = find(text, path)?;
    if let Some(member) = object.members.iter().rfind(|member| member.name == name) {
        return Ok(replaced(text, member.value.clone(), value));
    }
    let name = serde_json::to_string(name).context("writing a name as JSON")?;
    let Some(last) = object.members.last() else {
        return Ok(replaced(text, object.start..object.start, &format!("{name}: {value}")));
    };
    let colon = &text[last.key.end..last.value.start];
    let before = match object.members.iter().rev().nth(1) {
        Some(other) => text[other.value.end..last.key.start].split_once(',').map_or(" ", |(_, before)| before),
        None if last.key.start == object.start && colon != ":" => " ",
        None => &text[object.start..last.key.start],
    };
    Ok(replaced(text, last.value.end..last.value.end, &format!(",{before}{name}{colon}{value}")))
}

/// Removes the member that `path` leads to, if it is there.
pub(super) fn remove(text: &str, path: &[&str]) -> Result<String> {
    let (object, name) = find(text, path)?;
    let Some(at) = object.members.iter().rposition(|member| member.name == name) else { return Ok(text.to_owned()) };
    let Member { key, value, .. } = &object.members[at];
    let range = match (at.checked_sub(1), object.members.get(at + 1)) {
        (Some(before), _) => object.members[before].value.end..value.end,
        (None, Some(after)) => key.start..after.key.start,
        (None, None) => key.start..value.end,
    };
    Ok(replaced(text, range, ""))
}

/// The object that the last of `path` is in, and its name there.
fn find<'a>(text: &str, path: &[&'a str]) -> Result<(Object, &'a str)> {
    let [above @ .., name] = path else { bail!("a path has a name") };
    let start = text.len() - text.trim_start().len();
    let mut object = object(text, start..text.len())?;
    for name in above {
        let member = object.members.into_iter().rfind(|member| member.name == *name);
        object = self::object(text, member.with_context(|| format!("there is no {name:?}"))?.value)?;
    }
    Ok((object, name))
}

fn object(text: &str, at: Range<usize>) -> Result<Object> {
    let start = at.start + 1;
    let members = serde_json::from_str::<Members<'_>>(&text[at]).context("looking for an object's members")?.0;
    // They are parts of the text.
    let range = |part: &RawValue| {
        let start = part.get().as_ptr() as usize - text.as_ptr() as usize;
        start..start + part.get().len()
    };
    let member = |(key, value): (&RawValue, &RawValue)| {
        let name = serde_json::from_str(key.get()).context("reading a member's name")?;
        Ok(Member { name, key: range(key), value: range(value) })
    };
    Ok(Object { start, members: members.into_iter().map(member).collect::<Result<_>>()? })
}

fn replaced(text: &str, range: Range<usize>, by: &str) -> String {
    [&text[..range.start], by, &text[range.end..]].concat()
}

/// An object's members, in their order, as they are written.
struct Members<'a>(Vec<(&'a RawValue, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_member_is_changed_in_place_and_a_new_one_looks_like_the_others() {
        for (text, path, value, expected) in [
            (r#"{"a": 1, "b":2}"#, &["a"][..], "3", r#"{"a": 3, "b":2}"#),
            (r#"{"a": 1}"#, &["b"], "2", r#"{"a": 1, "b": 2}"#),
            (r#"{"a":1}"#, &["b"], "2", r#"{"a":1,"b":2}"#),
            (r#"{"a":1,"c":{}}"#, &["b"], "2", r#"{"a":1,"c":{},"b":2}"#),
            ("{}", &["b"], "2", r#"{"b": 2}"#),
            (" {\n  \"a\": 1\n}\n", &["b"], "2", " {\n  \"a\": 1,\n  \"b\": 2\n}\n"),
            ("{\"a\": 1 ,\n\t\"c\" : 1.50}", &["b"], "2", "{\"a\": 1 ,\n\t\"c\" : 1.50,\n\t\"b\" : 2}"),
            (r#"{"x": {"a": "}"}, "y": 0}"#, &["x", "b"], "2", r#"{"x": {"a": "}", "b": 2}, "y": 0}"#),
            (r#"{"\u0061": 1, "é\"": [1,  2]}"#, &["a"], "2", r#"{"\u0061": 2, "é\"": [1,  2]}"#),
        ] {
            assert_eq!(set(text, path, value).unwrap(), expected);
        }
        assert!(set(r#"{"x": 1}"#, &["x", "b"], "2").is_err() && set("{}", &["x", "b"], "2").is_err());
    }

    #[test]
    fn a_member_is_removed_with_its_comma() {
        for (text, name, expected) in [
            (r#"{"a": 1, "b": 2, "c": 3}"#, "a", r#"{"b": 2, "c": 3}"#),
            (r#"{"a": 1, "b": 2, "c": 3}"#, "b", r#"{"a": 1, "c": 3}"#),
            (r#"{"a": 1, "b": 2, "c": 3}"#, "c", r#"{"a": 1, "b": 2}"#),
            ("{\n  \"a\": 1\n}", "a", "{\n  \n}"),
            (r#"{"a": 1}"#, "b", r#"{"a": 1}"#),
        ] {
            assert_eq!(remove(text, &[name]).unwrap(), expected);
        }
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![Just(Value::Null), any::<i32>().prop_map(|n| json!(n)), ".{0,6}".prop_map(Value::from)];
        leaf.prop_recursive(3, 12, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map("[a-c\"\\\\{},:é]{0,3}", inner, 0..4)
                    .prop_map(|map| map.into_iter().collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn whatever_an_object_holds_what_is_set_is_there_and_taken_out_again_the_text_is_as_it_was(
            members in prop::collection::btree_map("[a-c\"\\\\{},:é]{1,3}", value(), 0..4),
            name in "[a-c\"]{1,2}",
            pretty in any::<bool>(),
        ) {
            let object = json!(members);
            let text = if pretty { serde_json::to_string_pretty(&object).unwrap() } else { object.to_string() };
            let with = set(&text, &[&name], "[0]").unwrap();
            let mut expected = object.clone();
            expected[&name] = json!([0]);
            prop_assert_eq!(serde_json::from_str::<Value>(&with).unwrap(), expected, "{}", with);
            let without = remove(&with, &[&name]).unwrap();
            if !members.contains_key(&name) {
                prop_assert_eq!(without, text);
            }
        }
    }
}
