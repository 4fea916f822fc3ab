//! How a benchmark asks a guard, and is asked itself.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use spendguard::upstream::{Config, Upstream, roots};

/// Read once, since many clients need them.
static ROOTS: OnceLock<Arc<rustls::ClientConfig>> = OnceLock::new();

/// A client that waits for a minute.
pub(crate) fn client(url: &str) -> Upstream {
    let wait = Duration::from_secs(60);
    let config = Config { base_url: url.parse().unwrap(), connect_timeout: wait, response_timeout: wait };
    Upstream::new(&config, ROOTS.get_or_init(roots))
}

/// What follows a name among the arguments.
pub(crate) fn argument(name: &str) -> Option<String> {
    std::env::args().skip_while(|argument| argument != name).nth(1)
}
