//! The values and labels of series about requests and meters.

/// A limit's meter as it is shown; amounts in the limit's unit, dollars for
/// `usd`.
#[derive(Clone, Debug)]
pub struct LimitSample {
    /// The limit's name.
    pub limit: String,
    /// The meter's subject.
    pub subject: String,
    /// `usd`, `tokens`, ….
    pub unit: &'static str,
    /// Settled.
    pub settled: f64,
    /// Held.
    pub held: f64,
    /// The lowest soft threshold.
    pub soft: Option<f64>,
    /// The cap.
    pub hard: Option<f64>,
    /// When the window ends, in Unix seconds.
    pub reset_s: Option<f64>,
}

/// Labels of one request.
#[derive(Clone, Copy, Debug)]
pub struct RequestLabels<'a> {
    /// Id of the project; empty if unknown.
    pub project: &'a str,
    /// Id of the key; empty if unknown, or if upstream never accepted it.
    pub key: &'a str,
    /// The endpoint, one of a fixed set.
    pub endpoint: &'a str,
}
