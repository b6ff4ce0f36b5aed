//! Maps and sets of what an iterator yields.

use anyhow::Result;

/// Iterators whose items go into a map or a set one after the other.
///
/// `collect` sorts them all first, and the code of a sort has 5 kB for each type that there is: a twentieth of our programs,
/// which sort little, and most of that in order already.
pub trait Gather: Iterator + Sized {
    /// As `collect`. Of two items with one key the later one counts.
    fn gather<C: Default + Extend<Self::Item>>(self) -> C {
        let mut all = C::default();
        all.extend(self);
        all
    }

    /// As `collect` into a `Result`: ends at the first error.
    fn try_gather<T, C: Default + Extend<T>>(mut self) -> Result<C>
    where
        Self: Iterator<Item = Result<T>>,
    {
        self.try_fold(C::default(), |mut all, item| {
            all.extend([item?]);
            Ok(all)
        })
    }
}

impl<I: Iterator> Gather for I {}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use anyhow::anyhow;

    use super::*;

    #[test]
    fn what_is_gathered_is_what_would_be_collected() {
        let items = [("b", 1), ("a", 2), ("b", 3)];
        assert_eq!(items.into_iter().gather::<BTreeMap<_, _>>(), items.into_iter().collect());
        let none = std::iter::empty::<Result<(&str, i32)>>();
        assert!(none.try_gather::<_, BTreeMap<_, _>>().unwrap().is_empty());
        let fails = [Ok(("a", 1)), Err(anyhow!("first")), Err(anyhow!("second"))];
        assert_eq!(fails.into_iter().try_gather::<_, BTreeMap<_, _>>().unwrap_err().to_string(), "first");
    }
}
