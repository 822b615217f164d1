"""Who calls, and what they may do: credentials, roles, limits. `guard` joins the parts around every call."""
