//! Series of stops and fuses.

use prometheus::{GaugeVec, IntCounterVec, Registry};

use crate::metrics::register::{counter_vec, gauge_vec};
use crate::metrics::{Metrics, float};

/// The kinds of stops.
const KINDS: [&str; 2] = ["fuse", "kill_switch"];

/// The series.
#[derive(Debug)]
pub(super) struct Stops {
    in_force: GaugeVec,
    fuse_trips: IntCounterVec,
}

impl Stops {
    pub(super) fn new(r: &Registry) -> prometheus::Result<Self> {
        Ok(Self {
            in_force: gauge_vec(
                r,
                "spendguard_stops",
                "Keys, projects and organizations that are stopped.",
                &["kind"],
            )?,
            fuse_trips: counter_vec(
                r,
                "spendguard_fuse_trips_total",
                "Times that this guard has blown a fuse.",
                &["fuse"],
            )?,
        })
    }
}

impl Metrics {
    /// Starts the counter of a fuse at zero.
    pub fn fuse_in_force(&self, fuse: &str) {
        self.stops.fuse_trips.with_label_values(&[fuse]);
    }

    /// A fuse has blown.
    pub fn fuse_blown(&self, fuse: &str) {
        self.stops.fuse_trips.with_label_values(&[fuse]).inc();
    }

    /// Sets how many stops are in force, from the kind of each.
    pub fn mirror_stops<'a>(&self, stops: impl Iterator<Item = &'a str>) {
        let mut counts = [0_i64; KINDS.len()];
        for stop in stops {
            let of_kind = counts.iter_mut().zip(KINDS).filter(|(_, kind)| *kind == stop);
            of_kind.for_each(|(count, _)| *count += 1);
        }
        for (count, kind) in counts.into_iter().zip(KINDS) {
            self.stops.in_force.with_label_values(&[kind]).set(float(count));
        }
    }
}
