//! A trend in one line of text.

/// The average of each whole week, counted back from the last of `values`; blank days are left out.
pub fn weekly_averages(values: &[Option<i64>]) -> Vec<Option<i64>> {
    values
        .rchunks_exact(7)
        .rev()
        .map(|week| {
            let known: Vec<i64> = week.iter().flatten().copied().collect();
            let count = i64::try_from(known.len()).ok().filter(|&count| count > 0)?;
            // A sum of figures that are absurd must not stop the program.
            Some(known.iter().fold(0_i64, |sum, value| sum.saturating_add(*value)) / count)
        })
        .collect()
}

/// One mark for each value, from nothing to the highest of them.
pub fn sparkline(values: &[Option<i64>]) -> String {
    const MARKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let top = values.iter().flatten().max().copied().unwrap_or(0).max(1);
    let mark = |value: i64| {
        let step = i128::from(value) * 7 / i128::from(top);
        MARKS[usize::try_from(step).unwrap_or(0).min(7)]
    };
    values.iter().map(|value| value.map_or(' ', mark)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_week_is_averaged_and_blank_is_not_zero() {
        let mut values = vec![Some(1_000_000); 3];
        values.extend([Some(70); 7]);
        values.extend([Some(100), Some(100), Some(100), Some(100), Some(100), None, None]);
        values.extend([None; 7]);
        values.extend([Some(0); 7]);
        let weeks = weekly_averages(&values);
        assert_eq!(weeks, [Some(70), Some(100), None, Some(0)], "the three days before are no whole week");
        assert_eq!(sparkline(&weeks), "▅█ ▁");
        assert_eq!(sparkline(&[Some(i64::MAX), Some(i64::MAX / 2)]), "█▄");
        assert_eq!(sparkline(&weekly_averages(&[Some(i64::MAX); 7])).chars().count(), 1);
        assert_eq!(sparkline(&[]), "");
    }
}
