//! How connections to one PostgreSQL database are made.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::runtime::Runtime;
use tokio::task::AbortHandle;
use tokio_postgres::{Client, NoTls};

use crate::store::StoreError;
use crate::store::postgres::pool::Pool;
use crate::store::postgres::tls::{self, MakeTls};
use crate::store::postgres::url::Url;
use crate::store::sql::postgres::{Connection, cause};

/// How long a transaction may pause before the database ends it: a guard that is stopped
/// must not keep rows locked that others wait for. A change of the rules, which keeps none but the
/// guards' lanes, sets a longer one.
const IDLE_MAX: Duration = Duration::from_secs(5);

/// Sets how a lane's few statements are planned: once for a connection, and by indexes. A plan for
/// each execution takes longer than what it saves, and one that was made while a table was small
/// must do when it is large. What a relative of PostgreSQL has no setting for is left as it is.
const PLAN_LANES: &str = "SELECT set_config(name, wanted, false) FROM pg_settings JOIN (VALUES \
    ('plan_cache_mode', 'force_generic_plan'), ('enable_seqscan', 'off'), ('enable_hashjoin', 'off'), \
    ('enable_mergejoin', 'off'), ('jit', 'off')) AS w (of, wanted) ON name = of";

/// Connections of a guard that are apart, since what has one must not wait for reports: one for
/// each lane, one for the heartbeat, one for changes of the rules, and one that reads the rules,
/// also in the middle of a change.
const APART: usize = LANES.len() + 3;
/// The numbers of the connections on which a guard admits.
pub(super) const LANES: [i64; 2] = [1, 2];
/// The fewest connections that a guard works with: those apart, and one for everything else. All
/// that shares the last one takes it for one transaction or question, and asks for no other
/// meanwhile; what is apart waits for it only to join again. So it comes free again, however many wait.
pub const CONNECTIONS_MIN: usize = APART + 1;

/// What to do about a database that can't be reached.
const UNREACHABLE: &str = "check storage.url, that the database runs, and that this machine may reach it";

/// Where the database is, and how it is used.
#[derive(Clone, Debug)]
pub struct Config {
    /// `postgres://user:password@host:5432/database?sslmode=verify-full`.
    pub url: crate::domain::Secret,
    /// The schema with the tables.
    pub schema: String,
    /// Connections that this guard may have, [`CONNECTIONS_MIN`] or more.
    pub connections_max: usize,
    /// How long making a connection may take, and the wait for one that others use.
    pub connect_timeout: Duration,
    /// How long a statement may take.
    pub statement_timeout: Duration,
    /// The guard's name among those of the database.
    pub node: String,
    /// How long after its last sign of life a guard is given up.
    pub node_timeout: Duration,
}

/// Makes connections.
pub(crate) struct Database {
    url: Url,
    tls: Option<MakeTls>,
    pub(super) config: Config,
    /// All connections that are not apart.
    pub(super) pool: Arc<Pool<Connection>>,
    /// Drives all connections. `None` once it is dropped.
    runtime: Option<Runtime>,
    /// Whether there may be jobs.
    has_jobs: AtomicBool,
}

impl Database {
    /// A database that is not connected to yet.
    pub(super) fn new(config: Config) -> Result<Self, StoreError> {
        let unusable = |why: String| StoreError::Address { why };
        let mut url = Url::read(config.url.expose()).map_err(|error| unusable(error.to_string()))?;
        let tls = url
            .is_encrypted
            .then(|| trusting(url.root_certificates.as_deref()))
            .transpose()
            .map_err(unusable)?;
        url.config.connect_timeout(config.connect_timeout);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("ledger")
            .enable_all()
            .build()
            .map_err(|error| unusable(format!("no thread could be started: {error}")))?;
        let pool = Pool::new(config.connections_max.saturating_sub(APART));
        Ok(Self { url, tls, config, pool, runtime: Some(runtime), has_jobs: AtomicBool::new(false) })
    }

    /// Host and database, to be shown.
    pub(super) fn shown(&self) -> &str {
        &self.url.shown
    }

    /// The runtime of all connections.
    pub(super) fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("the runtime is there until the database is dropped")
    }

    /// How long an answer may take. The database itself ends a statement after
    /// `statement_timeout`, and says so.
    pub(super) fn answer_timeout(&self) -> Duration {
        self.config.statement_timeout.saturating_add(self.config.connect_timeout)
    }

    /// Whether any hold may be that of a job.
    pub(super) fn has_jobs(&self) -> bool {
        self.has_jobs.load(Ordering::Relaxed)
    }

    /// A job was written or found.
    pub(super) fn note_jobs(&self) {
        self.has_jobs.store(true, Ordering::Relaxed);
    }

    /// A connection for a lane. To be called on the database's own runtime.
    pub(super) async fn client(&self) -> Result<Client, tokio_postgres::Error> {
        let (client, _) = self.connect().await?;
        client.batch_execute(PLAN_LANES).await?;
        Ok(client)
    }

    /// A connection that threads use; one that is not apart is lent by the pool.
    pub(super) fn connection(self: &Arc<Self>) -> Result<Connection, StoreError> {
        let (database, longest) = (Arc::clone(self), self.config.connect_timeout);
        let connecting = async move { tokio::time::timeout(longest, database.connect()).await };
        let connected = pollster::block_on(self.runtime().spawn(connecting));
        let Ok(connected) = connected.map_err(|_| StoreError::Unavailable)? else {
            let why = format!("it has not answered within {} s", longest.as_secs_f32());
            return Err(StoreError::Connect { to: self.shown().to_owned(), why, remedy: UNREACHABLE });
        };
        let connected = connected.map_err(|error| self.unreachable(&error))?;
        Ok(Connection::new(connected, self.runtime().handle().clone(), self.answer_timeout()))
    }

    /// A client, and the task that drives its connection.
    async fn connect(&self) -> Result<(Client, AbortHandle), tokio_postgres::Error> {
        let Config { schema, statement_timeout, .. } = &self.config;
        let mut config = self.url.config.clone();
        let given = config.get_options().map(|given| format!("{given} ")).unwrap_or_default();
        config.options(format!(
            "{given}-c search_path={schema} -c statement_timeout={} -c idle_in_transaction_session_timeout={} \
             -c default_transaction_isolation=read\\ committed -c TimeZone=UTC -c client_min_messages=error",
            statement_timeout.as_millis(),
            IDLE_MAX.as_millis(),
        ));
        if let Some(tls) = &self.tls {
            let (client, connection) = config.connect(tls.clone()).await?;
            return Ok((client, self.runtime().spawn(connection).abort_handle()));
        }
        let (client, connection) = config.connect(NoTls).await?;
        Ok((client, self.runtime().spawn(connection).abort_handle()))
    }

    /// Why the database can't be reached, with what to do about it.
    fn unreachable(&self, error: &tokio_postgres::Error) -> StoreError {
        let to = self.shown().to_owned();
        let code = error.code().map_or("", |code| code.code());
        let remedy = match code {
            "28P01" | "28000" => "check the user and the password in storage.url, and pg_hba.conf",
            "3D000" => "create the database, or correct its name in storage.url",
            "53300" => {
                "the database has no connection left: lower storage.connections_max of the guards, or raise max_connections"
            }
            "57P03" => "the database is starting or stopping: try again",
            _ if tls::is_of_certificate(error) => {
                "name a file with the certificate's authority in storage.url (&sslrootcert=/path/to/ca.pem), and the host that \
                 the certificate is for"
            }
            _ => UNREACHABLE,
        };
        StoreError::Connect { to, why: cause(error), remedy }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Database").field("shown", &self.url.shown).finish_non_exhaustive()
    }
}

/// Runs work on the database on a thread that no request runs on.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| StoreError::Unavailable)?
}

/// TLS that trusts a file's certificates, or the system's.
fn trusting(file: Option<&Path>) -> Result<MakeTls, String> {
    let mut roots = RootCertStore::empty();
    if let Some(file) = file {
        let unreadable = |why: String| format!("sslrootcert {}: {why}", file.display());
        let found = CertificateDer::pem_file_iter(file).map_err(|error| unreadable(error.to_string()))?;
        for certificate in found {
            let certificate = certificate.map_err(|error| unreadable(error.to_string()))?;
            roots.add(certificate).map_err(|error| unreadable(error.to_string()))?;
        }
        if roots.is_empty() {
            return Err(unreadable("it holds no certificate".to_owned()));
        }
    } else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(MakeTls(Arc::new(config)))
}
