//! The OpenAPI documents generated from the wire types.
