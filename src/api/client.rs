//! The Matrix client-server API, one file for each group of endpoints.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/>

use crate::Route;

/// Every endpoint of this face.
pub(crate) fn routes() -> Vec<Route> {
    Vec::new()
}
