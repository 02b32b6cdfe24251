//! The client of the example `redis_client`.

#[path = "../../redis_client/replies.rs"]
mod replies;
#[path = "../../shared/resp.rs"]
mod resp;
#[path = "../../redis_client/session.rs"]
pub(crate) mod session;
#[path = "../../redis_client/subscription.rs"]
pub(crate) mod subscription;
