"""Cell type labels that authors of blood studies write and the Cell Ontology does not list, by Cell Ontology id.

Plain data, read only by `ontology.py`; imports nothing. Only what case, punctuation, plural or a missing "cell" cannot
explain belongs here: "CD14+ Monocytes" and "B" are found without help.
"""

BLOOD_LABELS: dict[str, tuple[str, ...]] = {
    "CL:0000236": ("CD19+ B", "CD20+ B", "B Activated", "Activated B"),
    "CL:0000787": ("B memory", "Bmem"),
    "CL:0000788": ("B naive",),
    "CL:0000786": ("Plasma B",),
    "CL:0000084": ("CD3+ T", "T activated", "Activated T"),
    "CL:0000624": ("CD4 T", "CD4+ T", "T CD4", "CD4"),
    "CL:0000625": ("CD8 T", "CD8+ T", "T CD8", "CD8"),
    "CL:0000912": ("T helper",),
    "CL:0000492": ("CD4+ T Helper",),
    "CL:0000546": ("CD4+ T Helper2",),
    "CL:0000792": ("CD4+/CD25 T Reg", "CD4+/CD25+ T Reg", "CD4+ CD25+ Treg"),
    "CL:0000815": ("T Reg", "Treg", "reg. T"),
    "CL:0000794": ("CD8+ Cytotoxic T", "CD8 Cytotoxic T"),
    "CL:0000895": ("CD4+/CD45RA+/CD25- Naive T", "CD4 Naive T", "Naive CD4 T", "Naive CD4+ T", "CD4 Naive"),
    "CL:0000900": ("CD8+/CD45RA+ Naive Cytotoxic", "CD8 Naive T", "Naive CD8 T", "Naive CD8+ T", "CD8 Naive"),
    "CL:0000897": ("CD4+/CD45RO+ Memory", "CD4 Memory T", "Memory CD4 T", "Memory CD4+ T", "CD4 Memory"),
    "CL:0000909": ("CD8+/CD45RO+ Memory", "CD8 Memory T", "Memory CD8 T", "Memory CD8+ T", "CD8 Memory"),
    "CL:0000798": ("gdT", "gd T"),
    "CL:0000940": ("MAIT",),
    "CL:0000623": ("NK", "CD56+ NK"),
    "CL:0000576": ("Mono",),
    "CL:0001054": ("CD14 Mono", "CD14+ Mono", "CD14 Monocyte"),
    "CL:0002396": ("CD16 Mono", "CD16+ Mono", "CD16+ Monocyte", "FCGR3A+ Mono", "FCGR3A+ Monocyte"),
    "CL:0000451": ("DC",),
    "CL:0000990": ("cDC",),
    "CL:0000784": ("pDC",),
    "CL:0000556": ("Mk", "MK"),
    "CL:0000232": ("Eryth", "RBC"),
    "CL:0008001": ("CD34+", "HSPC"),
    "CL:0000037": ("HSC",),
}
