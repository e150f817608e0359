"""The kinds of personal data and secrets that are looked for, and what is done about each."""

from collections.abc import Mapping
from dataclasses import dataclass, field

REDACT = "redact"  # a typed placeholder takes its place
DROP = "drop"  # the row is left out
REPORT = "report"  # counted only
ACTIONS = (REDACT, DROP, REPORT)

NAME_MODELS = ("rampart",)

# Kinds that rules find, and what they are for a reader of the report.
RULE_KINDS = {
    "email": "e-mail address",
    "phone": "phone number",
    "ip_address": "public IPv4 or IPv6 address",
    "mac_address": "MAC address of a device",
    "url_credentials": "user name and password, or a token, in a URL",
    "street_address": "street with a house number",
    "iban": "IBAN",
    "payment_card": "number of a payment card",
    "bitcoin_address": "Bitcoin address",
    "api_key": "API key or another long secret of a service",
    "access_token": "JSON web token",
    "private_key": "private key",
    "passport": "passport number",
    "imei": "IMEI of a phone",
    "ar_cuit": "Argentine CUIT",
    "au_tfn": "Australian tax file number",
    "be_national_number": "Belgian national number",
    "br_cpf": "Brazilian CPF",
    "ca_sin": "Canadian social insurance number",
    "ch_ahv": "Swiss AHV number",
    "cl_rut": "Chilean RUT",
    "cn_resident_id": "Chinese resident identity number",
    "de_tax_id": "German tax id",
    "dk_cpr": "Danish CPR number",
    "es_dni": "Spanish DNI",
    "es_nie": "Spanish NIE",
    "fi_hetu": "Finnish personal identity code",
    "fr_nir": "French social security number",
    "gb_nhs": "NHS number",
    "gb_nino": "British national insurance number",
    "in_aadhaar": "Indian Aadhaar number",
    "in_pan": "Indian PAN",
    "it_codice_fiscale": "Italian codice fiscale",
    "jp_my_number": "Japanese My Number",
    "kr_rrn": "Korean resident registration number",
    "mx_curp": "Mexican CURP",
    "nl_bsn": "Dutch BSN",
    "no_national_number": "Norwegian national identity number",
    "pl_pesel": "Polish PESEL",
    "pt_nif": "Portuguese NIF",
    "ro_cnp": "Romanian CNP",
    "se_personal_number": "Swedish personal identity number",
    "tr_identity_number": "Turkish identity number",
    "us_itin": "US individual taxpayer number",
    "us_ssn": "US social security number",
    "za_identity_number": "South African identity number",
}

# Kinds that a model finds, only where `PrivacySettings.names` asks for one.
NAME_KINDS = {"person": "name of a person", "place": "name of a place"}

KINDS = RULE_KINDS | NAME_KINDS

# National phone numbers have no common form. They are tried as numbers of these countries.
PHONE_REGIONS = (
    "US", "GB", "DE", "FR", "ES", "IT", "NL", "BE", "PT", "PL", "SE", "CH", "AT", "IE",
    "BR", "MX", "AR", "IN", "CN", "JP", "KR", "AU", "NZ", "ZA", "NG", "TR", "RU", "ID",
)  # fmt: skip


@dataclass(frozen=True)
class PrivacySettings:
    """What is looked for, and what is done about it.

    Args:
        action: "redact" puts a typed placeholder such as `[EMAIL]` in its place, "drop" leaves
            the row out, "report" counts only.
        actions: other actions by kind, for example `{"private_key": "drop"}`.
        phone_regions: countries in whose forms national phone numbers are tried, as two letters.
        names: the model that finds names of persons and places: "rampart". Default: none, because
            it also touches many prompts without personal data.

    Raises:
        ValueError: an unknown action, kind, region or model.
    """

    action: str = REDACT
    actions: Mapping[str, str] = field(default_factory=dict)
    phone_regions: tuple[str, ...] = PHONE_REGIONS
    names: str | None = None

    def __post_init__(self) -> None:
        for action in (self.action, *self.actions.values()):
            if action not in ACTIONS:
                raise ValueError(f"the action is {action!r}; take one of {', '.join(ACTIONS)}")
        for kind in self.actions:
            if kind not in KINDS:
                raise ValueError(f"no kind is called {kind!r}; take one of {', '.join(KINDS)}")
            if kind in NAME_KINDS and self.names is None:
                raise ValueError(
                    f"an action is set for {kind!r}, which only a model finds; "
                    f"set names to one of {', '.join(NAME_MODELS)}"
                )
        if self.names is not None and self.names not in NAME_MODELS:
            raise ValueError(f"names is {self.names!r}; take one of {', '.join(NAME_MODELS)}")
        for region in self.phone_regions:
            if len(region) != 2 or not region.isupper():
                raise ValueError(
                    f"the phone region is {region!r}; two capital letters are needed, such as 'DE'"
                )

    def action_for(self, kind: str) -> str:
        """What is done about a kind.

        Args:
            kind: one of `KINDS`.

        Returns:
            "redact", "drop" or "report".
        """
        return self.actions.get(kind, self.action)
