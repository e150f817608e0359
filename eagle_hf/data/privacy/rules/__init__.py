"""Rules that recognise personal data and secrets by their form, check digits and neighbours."""
