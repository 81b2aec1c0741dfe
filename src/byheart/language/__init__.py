"""Language models: what did they memorize, document by document and span by span?"""

from byheart.language.collate import Collator as Collator
from byheart.language.collate import CollatorReport as CollatorReport
from byheart.language.collate import check_collator as check_collator
from byheart.language.copied import Copied as Copied
from byheart.language.copied import copied as copied
from byheart.language.counterfactual import CounterfactualConfig as CounterfactualConfig
from byheart.language.counterfactual import counterfactual as counterfactual
from byheart.language.design import Design as Design
from byheart.language.design import Place as Place
from byheart.language.design import Span as Span
from byheart.language.documents import Documents as Documents
from byheart.language.ensemble import Ensemble as Ensemble
from byheart.language.ensemble import EnsembleConfig as EnsembleConfig
from byheart.language.ensemble import train as train
from byheart.language.estimates import Estimates as Estimates
from byheart.language.extraction import extraction as extraction
from byheart.language.logs import Logs as Logs
from byheart.language.superposition import Superposition as Superposition
from byheart.language.superposition import superposition as superposition
from byheart.language.texts import Texts as Texts
from byheart.language.texts import corpus as corpus
from byheart.language.texts import read_texts as read_texts
