//! Head blocks of HTTP/2 as real peers write them: every string Huffman coded, and what may come again put into the
//! table of the connection. What each call has anew is not, and credentials never are: so nghttp2 decides, which is in
//! curl, Node and Apache.

use httlib_hpack::Encoder;

/// One direction of a connection.
pub struct Packer(Encoder<'static>);

impl Default for Packer {
    fn default() -> Packer {
        // The size that holds before the settings say another.
        Packer(Encoder::with_dynamic_size(4096))
    }
}

impl Packer {
    /// The next head block.
    pub fn block<N: AsRef<str>>(&mut self, fields: &[(N, String)]) -> Vec<u8> {
        let mut block = Vec::new();
        for (name, value) in fields {
            let form = Encoder::BEST_FORMAT
                | Encoder::HUFFMAN_NAME
                | Encoder::HUFFMAN_VALUE
                | place_in_table(name.as_ref());
            let field = (name.as_ref().as_bytes().to_vec(), value.as_bytes().to_vec(), form);
            let coded = self.0.encode(field, &mut block);
            assert!(coded.is_ok(), "{}: {coded:?}", name.as_ref());
        }
        block
    }
}

/// Whether the field becomes an entry of the table.
fn place_in_table(name: &str) -> u8 {
    match name {
        "authorization" | "cookie" | "x-api-key" | "api-key" | "x-goog-api-key" => Encoder::NEVER_INDEXED,
        ":path" | "age" | "cf-ray" | "content-length" | "date" | "etag" | "location" | "set-cookie" => 0,
        name if name.ends_with("request-id") || name.ends_with("-ms") || name.contains("ratelimit") => 0,
        _ => Encoder::WITH_INDEXING,
    }
}
