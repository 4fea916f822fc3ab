//! How a benchmark asks a guard, and is asked itself.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use spendguard::fake_openai::{self, Fake};
use spendguard::upstream::{Config, Upstream, roots};
use tokio::sync::watch;

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

/// Serves a fake OpenAI on a thread of its own for as long as the program lives; returns its origin.
pub(crate) fn fake() -> String {
    let listener = spendguard::net::bind("127.0.0.1:0".parse().unwrap(), 1).unwrap().remove(0);
    let origin = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (_stop, stop) = watch::channel(false);
        runtime.block_on(fake_openai::serve(listener, Arc::new(Fake::default()), stop))
    });
    origin
}
