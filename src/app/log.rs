//! The log: to standard error, buffered, flushed a few times a second. The first
//! field of each line is `event`, its stable name; `docs/operating.md` lists the
//! names.
//!
//! A line for each request must not cost a system call, nor a tenth of the
//! request's own work, as the library's own text format would.

use std::env;
use std::fmt::{self, Write as _};
use std::io::{self, BufWriter, Stderr, Write as _};
use std::sync::{Mutex, OnceLock};

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::sync::unpoisoned;

const BUFFER_BYTES: usize = 64 * 1024;

static SINK: OnceLock<Mutex<BufWriter<Stderr>>> = OnceLock::new();

fn sink() -> &'static Mutex<BufWriter<Stderr>> {
    SINK.get_or_init(|| Mutex::new(BufWriter::with_capacity(BUFFER_BYTES, io::stderr())))
}

/// Writes into the shared buffer.
struct LogSink;

impl io::Write for LogSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        unpoisoned(sink().lock()).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Starts the log at a level, as text or JSON. `RUST_LOG` overrides the level.
///
/// `RUST_LOG` is a level, or levels by target: `info,hyper=debug`.
pub fn start(level: &str, json: bool) {
    let named: Option<Targets> = env::var("RUST_LOG").ok().and_then(|text| text.parse().ok());
    let levels = named.or_else(|| level.parse().ok());
    let log = tracing_subscriber::registry().with(levels);
    let layer = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(|| LogSink);
    // A second start, in tests, keeps the first.
    let _ = if json {
        log.with(layer.json().flatten_event(true)).try_init()
    } else {
        log.with(layer.event_format(Text)).try_init()
    };
}

/// Writes out what is buffered.
pub fn flush() {
    // Standard error may be closed; there is no other place to report that.
    let _ = unpoisoned(sink().lock()).flush();
}

/// `2026-11-21T08:00:00.000000Z  INFO request event=request_ended status=200 usd=0.0012`
struct Text;

impl<S, N> FormatEvent<S, N> for Text
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut line: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        SystemTime.format_time(&mut line)?;
        write!(line, " {:>5}", event.metadata().level().as_str())?;
        let mut fields = Fields { line: OneLine(line), written: Ok(()) };
        event.record(&mut fields);
        fields.written?;
        fields.line.0.write_char('\n')
    }
}

/// Writes the message as it is, and other fields as `name=value`.
struct Fields<'a> {
    line: OneLine<'a>,
    written: fmt::Result,
}

impl<'a> Fields<'a> {
    fn put(&mut self, field: &Field, value: impl FnOnce(&mut OneLine<'a>) -> fmt::Result) {
        let (name, line) = (field.name(), &mut self.line);
        self.written = self.written.and_then(|()| {
            line.0.write_char(' ')?;
            if name != "message" {
                line.0.write_str(name)?;
                line.0.write_char('=')?;
            }
            value(line)
        });
    }
}

impl Visit for Fields<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        let is_quoted = value.is_empty() || memchr::memchr2(b' ', b'"', value.as_bytes()).is_some();
        self.put(field, |line| if is_quoted { write!(line, "{value:?}") } else { line.write_str(value) });
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, |line| write!(line, "{value:?}"));
    }
}

/// Escapes characters that would end or overwrite a line: a value may come from a client.
struct OneLine<'a>(Writer<'a>);

impl fmt::Write for OneLine<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let is_plain = text.bytes().all(|byte| (b' '..0x7f).contains(&byte));
        if is_plain || !text.contains(char::is_control) {
            return self.0.write_str(text);
        }
        text.chars().try_for_each(|c| {
            if c.is_control() { write!(self.0, "{}", c.escape_default()) } else { self.0.write_char(c) }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn text(kept: &Kept) -> String {
        String::from_utf8(kept.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn an_event_is_one_line_whatever_its_values_are() {
        let kept = Kept::default();
        let writer = kept.clone();
        let log =
            tracing_subscriber::fmt().event_format(super::Text).with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(log, || {
            tracing::warn!(event = "tested", status = 200, key = "a b", plain = "x", usd = %"1\n2", "hello");
        });
        let text = text(&kept);
        let line = "  WARN hello event=tested status=200 key=\"a b\" plain=x usd=1\\n2\n";
        assert!(text.ends_with(line), "{text:?}");
    }

    #[test]
    fn the_name_of_an_event_is_a_field_at_the_top_of_its_json() {
        let kept = Kept::default();
        let writer = kept.clone();
        let log =
            tracing_subscriber::fmt().json().flatten_event(true).with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(log, || tracing::warn!(event = "tested", status = 200, "hello"));
        let line: serde_json::Value = serde_json::from_str(&text(&kept)).unwrap();
        assert_eq!((&line["event"], &line["message"]), (&"tested".into(), &"hello".into()), "{line}");
    }
}
