//! Whether a caller may still ask for what it asks: it may have been stopped, and another guard may
//! have changed that since its request arrived.

use std::time::Duration;

use http::HeaderMap;

use crate::domain::Money;
use crate::guard::{Denied, Reservation, ReserveRequest};
use crate::protocol::openai::endpoint::Endpoint;
use crate::protocol::openai::operation::SocketForm;
use crate::proxy::auth::{self, Caller};
use crate::proxy::refuse::Refusal;
use crate::proxy::{Proxy, Rules};

/// The right of a caller to ask for admission, by the rules of one version.
#[derive(Clone, Copy, Debug)]
pub struct Permit<'a> {
    proxy: &'a Proxy,
    rules: &'a Rules,
    headers: &'a HeaderMap,
    caller: &'a Caller,
}

impl Proxy {
    /// The right of a caller, whose key came in these headers.
    pub(super) fn permit<'a>(
        &'a self,
        rules: &'a Rules,
        headers: &'a HeaderMap,
        caller: &'a Caller,
    ) -> Permit<'a> {
        Permit { proxy: self, rules, headers, caller }
    }

    /// Refuses a request that may cost money from who is stopped: before it takes of a rate, and
    /// before its body is read.
    pub(super) async fn refuse_stopped(&self, endpoint: &Endpoint, caller: &Caller) -> Result<(), Refusal> {
        match endpoint {
            Endpoint::Metered(_)
            | Endpoint::Hosted(..)
            | Endpoint::Batch
            | Endpoint::Socket(_, SocketForm::Realtime(_) | SocketForm::Translation(_))
            | Endpoint::ClientSecret => {
                let stop = self.guard.stop_on(&caller.key.project, &caller.key.id).await;
                stop.map_or(Ok(()), |stop| Err(stop.into()))
            }
            // What of these costs something is held, and refused then; each request for a response on a
            // socket is looked at by itself.
            Endpoint::Free(_)
            | Endpoint::Allowed
            | Endpoint::Upload(_)
            | Endpoint::Socket(_, SocketForm::Responses)
            | Endpoint::SelfService(_) => Ok(()),
        }
    }
}

impl Permit<'_> {
    /// The version of the rules in memory, if they permit it as well. A key that was moved to
    /// another project or limited to other models is 503, which clients retry.
    fn renewed(&self) -> Result<i64, Refusal> {
        let Self { proxy, rules, headers, caller } = *self;
        let (upstream_key, pass_through) = (rules.upstream_key.as_ref(), rules.pass_through);
        let again = auth::caller(headers, &proxy.opened.directory, upstream_key, pass_through)?;
        let is_same = again.key.id == caller.key.id
            && again.key.project == caller.key.project
            && again.model_rule == caller.model_rule
            && again.key.models.len() == caller.key.models.len()
            && again.key.models.iter().zip(&caller.key.models).all(|(a, b)| a.as_str() == b.as_str());
        if is_same { Ok(again.rules_version) } else { Err(Refusal::LedgerUnavailable) }
    }

    /// Whether what a request asks for may be spent: who is stopped may do what costs nothing.
    async fn may_spend(&self, request: &ReserveRequest) -> Result<(), Refusal> {
        if request.is_priced && request.bound.cost == Money::ZERO {
            return Ok(());
        }
        let of = &request.attribution;
        let stop = self.proxy.guard.stop_on(&of.project, &of.key).await;
        stop.map_or(Ok(()), |stop| Err(stop.into()))
    }

    /// Asks for admission by the rules in force: `attempt` again as often as they have changed
    /// meanwhile and still permit it.
    pub async fn ask<F: Future<Output = Result<Reservation, Denied>>>(
        &self,
        mut request: ReserveRequest,
        attempt: impl Fn(ReserveRequest) -> F,
    ) -> Result<Result<Reservation, Denied>, Refusal> {
        request.rules_version = self.caller.rules_version;
        loop {
            self.may_spend(&request).await?;
            match attempt(request.clone()).await {
                Err(Denied::Outdated) => request.rules_version = self.renewed()?,
                Ok(reservation) => {
                    // By a stop that came into force meanwhile, the hold is released.
                    self.may_spend(&request).await?;
                    return Ok(Ok(reservation));
                }
                ended @ Err(_) => return Ok(ended),
            }
        }
    }

    /// Reserves for a request without a body of its own, waiting for room up to `longest`.
    pub async fn reserve(&self, request: ReserveRequest, longest: Duration) -> Result<Reservation, Refusal> {
        let guard = &self.proxy.guard;
        Ok(self.ask(request, |request| guard.reserve_within(request, longest)).await??)
    }
}
