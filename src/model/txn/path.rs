//! The branch each nested transaction takes, and whether every operation on that path is valid.

use crate::model::effects::Refusal;
use crate::model::kv::{self, Failure};
use crate::model::view::{View, ViewError};
use crate::proto::etcdserverpb::request_op::Request;
use crate::proto::etcdserverpb::{RequestOp, TxnRequest};

use super::compare;

/// The branch that a transaction takes, and those of the transactions nested in that branch, in order.
pub struct Path<'r> {
    /// Whether all compares held.
    pub succeeded: bool,
    /// The operations to run.
    pub operations: &'r [RequestOp],
    /// One per nested transaction among `operations`.
    pub nested: Vec<Path<'r>>,
}

/// Evaluates the compares of `request` and of every transaction on the path, all against `view`.
///
/// Recursion is bounded: a request nested deeper than [`crate::model::check::MAX_TXN_DEPTH`] is not proposed, and the
/// decoder of log entries has a limit of its own.
///
/// # Errors
/// The view could not be read.
pub fn resolve<'r>(view: &impl View, request: &'r TxnRequest) -> Result<Path<'r>, ViewError> {
    let succeeded = compare::all_hold(view, &request.compare)?;
    let operations = if succeeded { &request.success } else { &request.failure };
    let mut nested = Vec::new();
    for operation in operations {
        if let Some(Request::RequestTxn(inner)) = &operation.request {
            nested.push(resolve(view, inner)?);
        }
    }
    Ok(Path { succeeded, operations, nested })
}

/// Checks every operation of `path` against the state before the transaction.
///
/// # Errors
/// The first refusal; [`Refusal::KeyNotFound`] for an operation with no request set.
pub fn validate(view: &impl View, path: &Path<'_>) -> Result<(), Failure> {
    let mut nested = path.nested.iter();
    for operation in path.operations {
        match &operation.request {
            Some(Request::RequestRange(request)) => kv::validate_range(view, request)?,
            Some(Request::RequestPut(request)) => kv::put::validate(view, request)?,
            Some(Request::RequestDeleteRange(_)) => {}
            Some(Request::RequestTxn(_)) => {
                validate(view, nested.next().expect("a path resolves one inner path per nested transaction"))?;
            }
            None => return Err(Refusal::KeyNotFound.into()),
        }
    }
    Ok(())
}
