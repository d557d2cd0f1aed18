//! Where real etcd judges otherwise, and why we do not follow. Letters and modes as in [`super`].
//!
//! One difference does not show here, because every client sends `accept`: the gateway of etcd 3.7 calls its own server
//! with the server's certificate, and only a header made from the client's `accept` keeps that from counting as the user of
//! the certificate's name. A request without it, to a server that has a TLS listener too, is then "permission denied", or
//! a known user's, instead of nobody's. Our gateway opens no connection and presents nothing but the client's token.

use super::{Door, V3_ONLY};
use crate::api::methods::Rpc;
use crate::api::rights::Right;
use crate::api::routes::Route;

/// What etcd 3.7 is due to answer to a call.
pub fn in_3_7(door: &Door, mode: usize) -> String {
    match door.rpc {
        // Since 3.7 anybody may ask whether authentication is on; we are 3.6, which asks for root.
        Some(Rpc::AuthStatus) => door.due[mode].replace(['e', 'd'], "."),
        // Refused too, but without a word: the stream ends as if all were well. Ours says why.
        Some(Rpc::Observe) => door.due[mode].replace(['e', 'd'], "n"),
        _ => door.due[mode].clone(),
    }
}

/// What etcd 3.4 is due to answer to a request over HTTP. Routes have a letter for each of `Who::ALL`.
pub fn in_3_4(door: &Door, mode: usize) -> String {
    let ours = door.due[mode].clone();
    let Some(route) = door.route else { return ours };
    match route {
        // Came with 3.5.11.
        Route::Livez | Route::Readyz => "-".repeat(ours.len()),
        // Ours alone.
        Route::V2Export => "-".repeat(ours.len()),
        Route::V2Members | Route::V2Member if is_change(door) => changes_of_members(door, route, mode, ours),
        // etcd's v2 knows nothing of v3's authentication, and stays open to everybody while v3 is guarded.
        _ if route.is_v2() && mode == V3_ONLY => ".".repeat(ours.len()),
        _ => ours,
    }
}

fn is_change(door: &Door) -> bool {
    door.method.as_ref().is_some_and(|method| door.route.is_some_and(|route| route.right(method) == Right::Members))
}

/// Below v2 a change of members asks for v3's root, whom v2 cannot present: nobody changes them by v2 then, and all hear
/// of an internal error. Ours takes the password of v3's root, and says so to others.
fn changes_of_members(door: &Door, route: Route, mode: usize, ours: String) -> String {
    // These only say 405, to whoever v2 lets in.
    let changes_nothing = route == Route::V2Members && door.method.as_ref() != Some(&http::Method::POST);
    match (mode, changes_nothing) {
        (0 | 1, _) => ours,
        (V3_ONLY, true) => ".....".to_owned(),
        (V3_ONLY, false) => "iiiii".to_owned(),
        (_, true) => "uuu..".to_owned(),
        (_, false) => "uuuii".to_owned(),
    }
}
