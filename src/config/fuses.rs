//! From the file's fuses to those of the domain.

use std::sync::Arc;
use std::time::Duration;

use crate::config::limits::Problem;
use crate::config::raw::{Amount, fuses};
use crate::config::units;
use crate::domain::{Fuse, Money, SpenderKind};
use crate::rulebook::rule::is_name;

const WITHIN_MIN: Duration = Duration::from_secs(60);
const WITHIN_MAX: Duration = Duration::from_secs(86_400);
const COOL_DOWN_MIN: Duration = Duration::from_secs(1);
const COOL_DOWN_MAX: Duration = Duration::from_secs(366 * 86_400);
const TIMES_MIN: u32 = 2;
const TIMES_MAX: u32 = 1_000;
/// The most fuses: each one is asked of everything that is spent.
const FUSES_MAX: usize = 100;

/// The fuses of the file.
pub(super) fn of(raw: &[fuses::Fuse], problems: &mut Vec<Problem>) -> Vec<Arc<Fuse>> {
    let mut fuses: Vec<Arc<Fuse>> = Vec::new();
    if raw.len() > FUSES_MAX {
        problems.push(("fuse".to_owned(), format!("there are more than {FUSES_MAX}; remove some")));
    }
    for (at, fuse) in raw.iter().enumerate() {
        match fuse_of(fuse) {
            Ok(_) if fuses.iter().any(|known| *known.name == fuse.name) => {
                let problem = format!("another fuse is named {:?}; names are unique", fuse.name);
                problems.push((format!("fuse[{at}].name"), problem));
            }
            Ok(fuse) => fuses.push(Arc::new(fuse)),
            Err((key, problem)) => problems.push((format!("fuse[{at}].{key}"), problem)),
        }
    }
    fuses
}

fn fuse_of(raw: &fuses::Fuse) -> Result<Fuse, (&'static str, String)> {
    if !is_name(&raw.name) {
        return Err(("name", "use 1 to 64 of a-z, A-Z, 0-9, '.', '_' and '-'".to_owned()));
    }
    let per = SpenderKind::named(&raw.per);
    let per =
        per.ok_or_else(|| ("per", format!("{:?} is not known; use organization, project or key", raw.per)))?;
    if raw.usd.is_none() && raw.times_usual.is_none() {
        return Err(("usd", "give an amount, or times_usual, or both".to_owned()));
    }
    if raw.times_usual.is_some_and(|times| !(TIMES_MIN..=TIMES_MAX).contains(&times)) {
        return Err(("times_usual", format!("give a whole number from {TIMES_MIN} to {TIMES_MAX}")));
    }
    let within = span("within", &raw.within, WITHIN_MIN..=WITHIN_MAX, "1m to 24h")?;
    let cool_down = raw.cool_down.as_deref();
    let cool_down = cool_down
        .map(|text| span("cool_down", text, COOL_DOWN_MIN..=COOL_DOWN_MAX, "1s to 366d"))
        .transpose()?;
    Ok(Fuse {
        name: raw.name.as_str().into(),
        per,
        projects: raw.only.project.clone(),
        keys: raw.only.key.clone(),
        usd: raw.usd.as_ref().map(|usd| positive("usd", usd)).transpose()?,
        times_usual: raw.times_usual,
        usd_min: positive("usd_min", &raw.usd_min)?,
        within_ms: within,
        cool_down_ms: cool_down,
    })
}

/// A span of time in milliseconds.
fn span(
    key: &'static str,
    text: &str,
    bounds: std::ops::RangeInclusive<Duration>,
    named: &str,
) -> Result<i64, (&'static str, String)> {
    let of = units::duration(text).map_err(|problem| (key, problem))?;
    let ms = i64::try_from(of.as_millis()).ok().filter(|_| bounds.contains(&of));
    ms.ok_or_else(|| (key, format!("{text:?} is out of range; give {named}")))
}

/// An amount above zero.
fn positive(key: &'static str, amount: &Amount) -> Result<Money, (&'static str, String)> {
    let parsed = amount.text().parse::<Money>().map_err(|error| (key, error.to_string()))?;
    if parsed > Money::ZERO { Ok(parsed) } else { Err((key, "must be above zero".to_owned())) }
}
