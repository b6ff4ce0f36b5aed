//! How far something is, for terminals.

/// Characters between its ends.
const WIDTH: usize = 24;

/// `[########----------------]`: so much of `all` is done. Empty while nobody knows how much there is to do.
pub fn bar(done: u64, all: u64) -> String {
    let full = (WIDTH as f64 * done.min(all) as f64 / all.max(1) as f64) as usize;
    format!("[{}{}]", "#".repeat(full), "-".repeat(WIDTH - full))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_full_as_the_work_is_done() {
        assert_eq!(bar(1, 3), "[########----------------]");
        assert_eq!(bar(0, 0), "[------------------------]");
        assert_eq!(bar(u64::MAX, 3), "[########################]");
    }
}
