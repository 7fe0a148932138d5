//! Writes KMIP answers, right and wrong ones, byte by byte.

fn item(tag: u32, kind: u8, value: &[u8]) -> Vec<u8> {
    let mut bytes = tag.to_be_bytes()[1..].to_vec();
    bytes.push(kind);
    bytes.extend_from_slice(&u32::try_from(value.len()).unwrap().to_be_bytes());
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}
pub(crate) fn structure(tag: u32, children: &[Vec<u8>]) -> Vec<u8> {
    item(tag, 1, &children.concat())
}
pub(crate) fn integer(tag: u32, value: i32) -> Vec<u8> {
    item(tag, 2, &value.to_be_bytes())
}
pub(crate) fn enumeration(tag: u32, value: u32) -> Vec<u8> {
    item(tag, 5, &value.to_be_bytes())
}
pub(crate) fn text(tag: u32, value: &str) -> Vec<u8> {
    item(tag, 7, value.as_bytes())
}
pub(crate) fn bytes(tag: u32, value: &[u8]) -> Vec<u8> {
    item(tag, 8, value)
}

/// A message with these batch items.
pub(crate) fn message(items: &[Vec<u8>]) -> Vec<u8> {
    let version = structure(0x42_0069, &[integer(0x42_006A, 1), integer(0x42_006B, 4)]);
    let header = structure(0x42_007A, &[version, integer(0x42_000D, i32::try_from(items.len()).unwrap())]);
    structure(0x42_007B, &[vec![header], items.to_vec()].concat())
}

/// The item that answers `operation`, as number `index` of a batch if there is one.
pub(crate) fn answered(operation: u32, index: Option<u64>, payload: &[Vec<u8>]) -> Vec<u8> {
    let mut item = vec![enumeration(0x42_005C, operation)];
    item.extend(index.map(|index| bytes(0x42_0093, &index.to_be_bytes())));
    item.push(enumeration(0x42_007F, 0));
    item.push(structure(0x42_007C, payload));
    structure(0x42_000F, &item)
}

/// A message that refuses with `reason`, and a text that must not reach anybody.
pub(crate) fn refused(reason: u32) -> Vec<u8> {
    let item = [enumeration(0x42_007F, 1), enumeration(0x42_007E, reason), text(0x42_007D, "PEER-TEXT")];
    message(&[structure(0x42_000F, &item)])
}

/// What a server says about a key; the default is a good AES-256 key called `7`.
#[derive(Clone)]
pub(crate) struct Key {
    pub(crate) attributes_id: &'static str,
    pub(crate) id: &'static str,
    pub(crate) object_type: u32,
    pub(crate) state: u32,
    pub(crate) usage: i32,
    pub(crate) algorithm: u32,
    pub(crate) length: i32,
    pub(crate) format: u32,
    pub(crate) wrapped: bool,
    pub(crate) material: Vec<u8>,
}

impl Default for Key {
    fn default() -> Self {
        Self {
            attributes_id: "7",
            id: "7",
            object_type: 2,
            state: 2,
            usage: 0x0C,
            algorithm: 3,
            length: 256,
            format: 1,
            wrapped: false,
            material: vec![0xA5; 32],
        }
    }
}

impl Key {
    pub(crate) fn attributes(&self) -> Vec<Vec<u8>> {
        let attribute = |name: &str, value: Vec<u8>| structure(0x42_0008, &[text(0x42_000A, name), value]);
        vec![
            text(0x42_0094, self.attributes_id),
            attribute("State", enumeration(0x42_000B, self.state)),
            attribute("Cryptographic Usage Mask", integer(0x42_000B, self.usage)),
            attribute("Cryptographic Algorithm", enumeration(0x42_000B, self.algorithm)),
            attribute("Cryptographic Length", integer(0x42_000B, self.length)),
            attribute("Object Type", enumeration(0x42_000B, self.object_type)),
            attribute("x-vendor", structure(0x42_000B, &[text(0x42_00FF, "unknown items are ignored")])),
        ]
    }

    /// The answer to our batch of GetAttributes and Get.
    pub(crate) fn fetched(&self) -> Vec<u8> {
        let mut block = vec![
            enumeration(0x42_0042, self.format),
            structure(0x42_0045, &[bytes(0x42_0043, &self.material)]),
            enumeration(0x42_0028, self.algorithm),
            integer(0x42_002A, self.length),
        ];
        if self.wrapped {
            block.push(structure(0x42_0046, &[enumeration(0x42_009E, 1)]));
        }
        let tag = if self.object_type == 4 { 0x42_0064 } else { 0x42_008F };
        let key = structure(tag, &[structure(0x42_0040, &block)]);
        let get = [enumeration(0x42_0057, self.object_type), text(0x42_0094, self.id), key];
        message(&[answered(0x0B, Some(0), &self.attributes()), answered(0x0A, Some(1), &get)])
    }
}
