from s2l_nemo.models.light_import import import_transformers

import_transformers()  # before a module of this package imports more of it
