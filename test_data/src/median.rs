//! What benches say of many measurements.

/// The middle one: half of the others are no more, half no less. A stall of the machine does not move it.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values = values.into_iter().collect::<Vec<_>>();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_is_far_off_does_not_matter() {
        assert_eq!(median([3.0, 1000.0, 1.0]).to_bits(), 3f64.to_bits());
    }
}
