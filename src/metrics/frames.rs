//! The time that messages on sockets take through the guard.

use std::time::Duration;

use prometheus::{Histogram, HistogramVec, Registry};

use crate::metrics::Metrics;
use crate::metrics::register::histogram_vec;

/// From a few clock reads to the longest that a side may take to read a message.
const SECONDS: &[f64] = &[1e-5, 2.5e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2.5e-3, 0.01, 0.1, 1.0, 10.0];

/// The side of a socket that a message comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameFrom {
    /// The client.
    Client,
    /// Upstream.
    Upstream,
}

impl FrameFrom {
    const ALL: [Self; 2] = [Self::Client, Self::Upstream];

    const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Upstream => "upstream",
        }
    }
}

/// The series of messages from one side, found once for each socket.
#[derive(Clone, Debug)]
pub struct FrameTimes {
    ready: Histogram,
    slow: Histogram,
}

impl FrameTimes {
    /// A message was passed on; `has_waited` says that the other side had not read what came before.
    pub fn passed(&self, has_waited: bool, took: Duration) {
        let times = if has_waited { &self.slow } else { &self.ready };
        times.observe(took.as_secs_f64());
    }
}

pub(super) fn frames(r: &Registry) -> prometheus::Result<HistogramVec> {
    let frames = histogram_vec(
        r,
        "spendguard_frame_overhead_seconds",
        "Time from reading a message of a WebSocket to its being written to the other side.",
        &["from", "reader"],
        SECONDS,
    )?;
    for from in FrameFrom::ALL {
        let _ = times(&frames, from);
    }
    Ok(frames)
}

fn times(frames: &HistogramVec, from: FrameFrom) -> FrameTimes {
    let of = |reader| frames.with_label_values(&[from.name(), reader]);
    FrameTimes { ready: of("ready"), slow: of("slow") }
}

impl Metrics {
    /// The series of messages from a side.
    pub fn frames(&self, from: FrameFrom) -> FrameTimes {
        times(&self.frames, from)
    }
}
