//! Sizes and durations in text form.

use std::time::Duration;

/// Bytes of `64MiB`, `512KiB`, `1GiB` or a plain number.
pub fn bytes(text: &str) -> Result<usize, String> {
    let (number, unit) = split(text);
    let factor: usize = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => {
            return Err(format!(
                "{text:?} is no size; write it as \"64MiB\", \"512KiB\" or a number of bytes"
            ));
        }
    };
    let number: usize = number.parse().map_err(|_| format!("{text:?} is no size; write it as \"64MiB\""))?;
    number.checked_mul(factor).ok_or_else(|| format!("{text:?} is too large"))
}

/// A duration of `10s`, `500ms`, `5m`, `1h` or `30d`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    let wrong =
        || format!("{text:?} is no duration; write it as \"500ms\", \"10s\", \"5m\", \"1h\" or \"30d\"");
    let ms: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(ms).map(Duration::from_millis).ok_or_else(|| format!("{text:?} is too long"))
}

fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    (&text[..at], text[at..].trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_read_as_written() {
        assert_eq!(bytes("64MiB"), Ok(64 << 20));
        assert_eq!(bytes("1024"), Ok(1024));
        assert!(bytes("64MB").is_err());
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("30d"), Ok(Duration::from_secs(30 * 86_400)));
        for bad in ["", "10", "-1s", "s", "1.5s", "10 parsecs"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
