//! Fields that an object has twice. JSON allows it, and what reads it takes the last one without a word.

use std::collections::BTreeSet;
use std::fmt;

use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde::{Deserializer, de::Error};

/// The paths of the fields that are there twice, such as `user_config.port`. Of what is not JSON, those before its fault.
pub(super) fn twice(json: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    // What is not JSON is somebody else's finding.
    let _ = At { path: String::new(), found: &mut found }.deserialize(&mut serde_json::Deserializer::from_slice(json));
    found
}

/// A value in a document, and where.
struct At<'a> {
    path: String,
    found: &'a mut Vec<String>,
}

impl At<'_> {
    fn below(&mut self, step: &str) -> At<'_> {
        let path =
            if self.path.is_empty() { step.trim_start_matches('.').to_owned() } else { self.path.clone() + step };
        At { path, found: self.found }
    }
}

impl<'de> DeserializeSeed<'de> for At<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for At<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_map<A: MapAccess<'de>>(mut self, mut access: A) -> Result<(), A::Error> {
        let mut names = BTreeSet::new();
        while let Some(name) = access.next_key::<String>()? {
            let at = self.below(&format!(".{name}"));
            if names.contains(&name) {
                at.found.push(at.path.clone());
            }
            access.next_value_seed(at)?;
            names.insert(name);
        }
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(mut self, mut access: A) -> Result<(), A::Error> {
        for n in 0.. {
            if access.next_element_seed(self.below(&format!("[{n}]")))?.is_none() {
                break;
            }
        }
        Ok(())
    }
    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_twice_only_within_one_object() {
        for (json, found) in [
            (r#"{"a": 1, "b": {"a": 2}}"#, &[][..]),
            (r#"{"a": 1, "b": true, "a": null}"#, &["a"]),
            (
                r#"{"a": {"b": "x", "b": -1}, "c": [{"d": 0.5}, {"d": 1, "d": 2, "d": 3}]}"#,
                &["a.b", "c[1].d", "c[1].d"],
            ),
            (r#"{"a": 1, "a": "#, &["a"]),
            ("", &[]),
        ] {
            assert_eq!(twice(json.as_bytes()), found, "{json}");
        }
    }
}
