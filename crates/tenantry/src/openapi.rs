//! Schemas of the values that are texts in JSON, for an OpenAPI document. (Feature `openapi`.)

use serde_json::json;
use utoipa::openapi::schema::{AdditionalProperties, ObjectBuilder, Schema, Type};
use utoipa::openapi::{RefOr, SchemaFormat};
use utoipa::{PartialSchema, ToSchema};

use crate::{
    Actor, Attributes, ChangesCursor, Cursor, Email, ExternalId, Name, StoragePath, Timestamp,
    UserId,
};

macro_rules! text {
    ($type:ty, $format:expr, $example:literal) => {
        impl PartialSchema for $type {
            fn schema() -> RefOr<Schema> {
                let format: Option<&str> = $format;
                let text = ObjectBuilder::new()
                    .schema_type(Type::String)
                    .format(format.map(|format| SchemaFormat::Custom(format.to_owned())))
                    .examples([$example]);
                RefOr::T(text.build().into())
            }
        }

        impl ToSchema for $type {}
    };
}

text!(Actor, None, "token:billing");
text!(ChangesCursor, None, "c1-3fa2b1c4a7f00d1c000000000000002a");
text!(Cursor, None, "1f4");
text!(ExternalId, None, "00u1a2b3c4");
text!(Name, None, "Ada Lovelace");
text!(Email, Some("email"), "ada@example.com");
text!(StoragePath, None, "customers/ada");
text!(Timestamp, Some("date-time"), "2026-11-23T14:43:28.534187Z");
text!(UserId, Some("uuid"), "3fa2b1c4-0000-4000-8000-000000000001");

impl PartialSchema for Attributes {
    fn schema() -> RefOr<Schema> {
        let object = ObjectBuilder::new()
            .schema_type(Type::Object)
            .description(Some("Whatever else the application keeps with the user, at most 16 KiB and 8 levels deep."))
            .additional_properties(Some(AdditionalProperties::FreeForm(true)))
            .examples([json!({ "plan": "pro" })]);
        RefOr::T(object.build().into())
    }
}

impl ToSchema for Attributes {}
