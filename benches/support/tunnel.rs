//! The least that passes a connection on: bytes are copied in both directions as they come. A process of
//! its own, so that its CPU time can be measured beside that of the guard.

use std::process::Command;

use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::TaskTracker;

const ARGUMENT: &str = "--tunnel-to";

/// A process that passes connections on to an origin: this program again, which has to call [`serve_if_asked`].
pub(crate) fn command(origin: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([ARGUMENT, origin.trim_start_matches("http://")]);
    command
}

/// Passes connections on for as long as the process lives, if it was started for that.
pub(crate) fn serve_if_asked() {
    if let Some(address) = super::asking::argument(ARGUMENT) {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(serve(address));
    }
}

async fn serve(upstream: String) {
    let connections = TaskTracker::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // As a guard says where it is.
    println!("proxy listening on http://{address}\nOPENAI_BASE_URL=http://{address}/v1");
    loop {
        let (mut client, _) = listener.accept().await.unwrap();
        let upstream = upstream.clone();
        connections.spawn(async move {
            let mut upstream = TcpStream::connect(upstream).await.unwrap();
            client.set_nodelay(true).unwrap();
            upstream.set_nodelay(true).unwrap();
            let _ = tokio::io::copy_bidirectional(&mut client, &mut upstream).await;
        });
    }
}
