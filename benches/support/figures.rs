//! The figures of a benchmark's rows.

pub(crate) fn median(mut of: Vec<u64>) -> u64 {
    of.sort_unstable();
    of[of.len() / 2]
}

/// `dividend / divisor` with two decimals.
pub(crate) fn ratio(dividend: u64, divisor: u64) -> String {
    let hundredths = dividend * 100 / divisor.max(1);
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}
