//! The parts that the messages of both signals have: attributes, the resource, the scope.

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;

use crate::clock::Clock;

const NAME: &str = "spendguard";
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Attributes, as they are sent.
#[derive(Debug, Default)]
pub(super) struct Attributes(Vec<KeyValue>);

impl Attributes {
    pub(super) fn text(&mut self, key: &str, value: &str) {
        self.add(key, Value::StringValue(value.to_owned()));
    }

    pub(super) fn text_if(&mut self, key: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.text(key, value);
        }
    }

    pub(super) fn count(&mut self, key: &str, value: u64) {
        self.add(key, Value::IntValue(i64::try_from(value).unwrap_or(i64::MAX)));
    }

    pub(super) fn number(&mut self, key: &str, value: f64) {
        self.add(key, Value::DoubleValue(value));
    }

    fn add(&mut self, key: &str, value: Value) {
        let value = Some(AnyValue { value: Some(value) });
        self.0.push(KeyValue { key: key.to_owned(), value, ..KeyValue::default() });
    }

    pub(super) fn into_wire(self) -> Vec<KeyValue> {
        self.0
    }
}

/// Which guard sends: this run of it.
#[derive(Debug)]
pub(super) struct Identity {
    resource: Resource,
    /// When the process began to count, in Unix nanoseconds.
    pub(super) began_ns: u64,
}

impl Identity {
    /// A new instance of the guard, which began when its clock did.
    pub(super) fn new(clock: &Clock) -> Result<Self, getrandom::Error> {
        let mut resource = Attributes::default();
        resource.text("service.name", NAME);
        resource.text("service.version", VERSION);
        resource.text("service.instance.id", &uuid(getrandom::u64()?, getrandom::u64()?));
        let age_ms = i64::try_from(clock.running().as_millis()).unwrap_or(i64::MAX);
        let began_ns = nanos(clock.now_ms().saturating_sub(age_ms));
        Ok(Self { resource: Resource { attributes: resource.into_wire(), ..Resource::default() }, began_ns })
    }

    pub(super) fn resource(&self) -> Resource {
        self.resource.clone()
    }
}

/// The name of this code as a source of spans and metrics.
pub(super) fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: NAME.to_owned(),
        version: VERSION.to_owned(),
        ..InstrumentationScope::default()
    }
}

/// Unix milliseconds in nanoseconds.
pub(super) fn nanos(unix_ms: i64) -> u64 {
    u64::try_from(unix_ms).unwrap_or(0).saturating_mul(1_000_000)
}

/// A UUID of version 4 from random bits (RFC 9562).
fn uuid(high: u64, low: u64) -> String {
    let high = (high & !0xF000) | 0x4000;
    let low = (low & (u64::MAX >> 2)) | (1 << 63);
    let digits = format!("{high:016x}{low:016x}");
    let parts = [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]];
    parts.join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_is_a_uuid_of_version_4() {
        assert_eq!(uuid(0, 0), "00000000-0000-4000-8000-000000000000");
        assert_eq!(uuid(u64::MAX, u64::MAX), "ffffffff-ffff-4fff-bfff-ffffffffffff");
    }
}
