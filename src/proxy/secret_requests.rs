//! Requests for client secrets of realtime sessions.

use bytes::Bytes;
use http::{Response, request};

use crate::domain::Demand;
use crate::guard::RateCheck;
use crate::protocol::openai::realtime::SecretRequest;
use crate::proxy::answer::Answer;
use crate::proxy::auth::Caller;
use crate::proxy::client_secret::sealed;
use crate::proxy::in_flight::InFlight;
use crate::proxy::prepare::refuse_invalid;
use crate::proxy::refuse::Refusal;
use crate::proxy::{Failed, Proxy, Rules, own};

impl Proxy {
    /// Answers a request for a client secret.
    pub(super) async fn answer_with_secret(
        &self,
        rules: &Rules,
        (head, body): (&request::Parts, &Bytes),
        caller: &Caller,
        in_flight: InFlight,
    ) -> Result<Response<Answer>, Failed> {
        match self.client_secret(rules, (head, body), caller).await {
            Ok((answer, rate_check)) => Ok(own::json(answer, &rate_check, in_flight)),
            Err(refusal) => Err((refusal, in_flight)),
        }
    }

    async fn client_secret(
        &self,
        rules: &Rules,
        (head, body): (&request::Parts, &Bytes),
        caller: &Caller,
    ) -> Result<(Bytes, RateCheck), Refusal> {
        let of = own::attribution(&self.guard, &caller.key, own::tags(rules, &head.headers)?);
        let rate_check = self.guard.pace(&of).await?;
        let upstream_key = rules.upstream_key.as_ref().filter(|_| !caller.key.pass_through);
        let upstream_key = upstream_key.ok_or_else(|| {
            let message =
                "A client secret can be made with a key of this guard, and not with a key of OpenAI.";
            Refusal::Invalid(message.to_owned(), None)
        })?;
        let asked = SecretRequest::read(body).map_err(refuse_invalid)?;
        let now_s = self.guard.clock().now_s();
        let models = [asked.session.model().map(str::to_owned), asked.session.transcription_model()];
        for model in models.into_iter().flatten() {
            let price = rules.sheet.price_of(&model, now_s, rules.unknown_model);
            let demand = Demand { model, ..Demand::default() };
            self.check_models(rules, caller, &demand, price.as_deref())?;
        }
        let expires_s = now_s.saturating_add(asked.seconds);
        let secret =
            sealed(&caller.key, expires_s, &asked.session, upstream_key).ok_or(Refusal::Overloaded)?;
        let id = format!("sess_{}", self.ids.next().to_str().unwrap_or_default());
        let answer = asked.session.answer(secret.expose(), expires_s, &id);
        Ok((answer.to_string().into(), rate_check))
    }
}
